import { expect, test } from '@jest/globals';
import { TidemarkError } from '../../agent/src/core/errors.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { GuestProbes, type GuestProbesOptions } from '../../agent/src/runtime/guest-probes.js';

const commands = ['guest-exec', 'guest-exec-status', 'guest-fsfreeze-freeze', 'guest-fsfreeze-thaw'];

function probes(answer: () => Promise<unknown>, asked: string[] = [], isBusy = false): GuestProbes {
  const agent = {
    call: (command: string) => {
      asked.push(command);
      return answer();
    },
    close: () => undefined,
  };
  const attachment = { vm: { name: 'db', uuid: 'u' }, state: 'attached', hypervisor: { guestAgent: () => agent } };
  const options = {
    sources: { list: () => [{ group: { name: 'erp' }, config: { hooks: { vms: [{ vm: 'db' }] } } }] },
    vms: { of: () => [attachment] },
  } as unknown as Pick<GuestProbesOptions, 'sources' | 'vms'>;
  return new GuestProbes({ ...options, clock: nodeClock, isBusy: () => isBusy });
}
const info = (forbidden: readonly string[]) => (): Promise<unknown> =>
  Promise.resolve({ supported_commands: commands.map((name) => ({ name, enabled: !forbidden.includes(name) })) });

test('a guest agent that forbids programs is an alert, with SSH as the way out; it is not asked again and again', async () => {
  const asked: string[] = [];
  const blocked = probes(info(['guest-exec']), asked);
  await blocked.tend();
  await blocked.tend();
  expect(asked).toEqual(['guest-info']);
  expect(blocked.alertsOf('erp')).toMatchObject([
    {
      code: 'hook-blocked',
      message: expect.stringContaining('forbids guest-exec:'),
      hint: expect.stringContaining('ssh'),
    },
  ]);
  expect(blocked.alertsOf('other')).toEqual([]);
});

test('one that allows all is none; one that does not answer is asked again; none is asked during a hold', async () => {
  const open = probes(info([]));
  await open.tend();
  expect(open.alertsOf('erp')).toEqual([]);
  const asked: string[] = [];
  const silent = probes(() => Promise.reject(new TidemarkError('guest-agent', 'not there')), asked);
  await silent.tend();
  await silent.tend();
  expect([asked.length, silent.alertsOf('erp')]).toEqual([2, []]);
  const untouched: string[] = [];
  await probes(info([]), untouched, true).tend();
  expect(untouched).toEqual([]);
});
