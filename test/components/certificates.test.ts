/** Certificates of a stack: issued by its authority, renewed before they end, never gone. */
import { X509Certificate } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import { agentEnrolment, certificateAuthority } from '../../components/provider/appliance-certificates.js';
import type { Call } from '../../components/provider/resource.js';
import { Sites } from '../../components/provider/sites.js';
import { unknown, type Properties } from '../../components/provider/values.js';

const call = (preview = false): Call & { existed: boolean } => ({
  ...{ urn: 'urn:pulumi:dev::p::tidemark:index:X::x', preview, existed: false, signal: AbortSignal.timeout(60_000) },
  ...{ sites: new Sites(), tell: { say: () => Promise.resolve(), status: () => undefined } },
});
const authorityOf = async (): Promise<Properties> => (await certificateAuthority.create({}, call())).outputs;
const text = (value: unknown): string => String(value);
const dayMs = 86_400_000;

describe('certificates', () => {
  test('a preview says that they are unknown; an update makes them, for the hosts that are dialled', async () => {
    const planned = await certificateAuthority.create({}, call(true));
    expect(planned).toMatchObject({ id: '', outputs: { certificate: unknown, key: unknown } });
    const { certificate, key } = await authorityOf();
    const given = { authority: { certificate, key }, name: 'far', hosts: ['10.0.0.5'] };
    const { outputs } = await agentEnrolment.create(given, call());
    const issued = new X509Certificate(text(outputs['certificate']));
    expect(issued.verify(new X509Certificate(text(certificate)).publicKey)).toBe(true);
    expect(issued.subject).toBe('CN=far');
    expect(issued.checkIP('10.0.0.5')).toBe('10.0.0.5');
  });

  test('one that ends soon is due, any other is not; a renewal is another one', async () => {
    const { certificate, key } = await authorityOf();
    const given = { authority: { certificate, key }, name: 'far' };
    const { id, outputs } = await agentEnrolment.create(given, call());
    const due = (more: Properties): number => agentEnrolment.changes!('urn', { ...outputs, ...more }).size;
    expect(due({})).toBe(0);
    expect(due({ expires: new Date(Date.now() + 59 * dayMs).toISOString() })).toBe(1);
    expect(due({ expires: new Date(Date.now() + 59 * dayMs).toISOString(), renewDays: 30 })).toBe(0);
    const renewed = await agentEnrolment.update(id, outputs, given, call());
    expect(renewed['certificate']).not.toBe(outputs['certificate']);
    expect(await agentEnrolment.update(id, outputs, given, call(true))).toMatchObject({ certificate: unknown });
  });

  test('a refresh never says that they are gone, also of an authority without a single input', async () => {
    const outputs = await authorityOf();
    const found = await certificateAuthority.read('x', outputs, undefined, call());
    expect(found?.state.outputs).toEqual(outputs);
    expect(() => certificateAuthority.read('x', {}, undefined, call())).toThrow('cannot be imported');
    expect(certificateAuthority.check!({ days: 5 }, { days: 6 })).toHaveLength(1);
    // The default, written out.
    expect(certificateAuthority.check!({ days: 3650 }, {})).toEqual([]);
  });
});
