import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { DefinitionOffers } from '../../agent/src/link/definition-offers.js';
import type { Session } from '../../agent/src/link/session.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { nodeRandom } from '../../agent/src/platform/node-random.js';
import { NodeStorage } from '../../agent/src/platform/node-storage.js';
import { decodeDefinition, definitionHash, encodeDefinition } from '../../agent/src/stream/definitions.js';
import type { DefinitionState } from '../../agent/src/stream/messages.js';
import { DefinitionIntake } from '../../agent/src/target/definition-intake.js';
import { definitionsOf, DefinitionStore } from '../../agent/src/target/definitions.js';
import type { Checkpoint } from '../../agent/src/target/manifest-records.js';
import { countingDefinition, definitionBlob } from '../support/counting-guest.js';
import { waitFor } from '../support/wait.js';

const blobOf = (name: string): ReturnType<typeof definitionBlob> =>
  definitionBlob(countingDefinition({ name, uuid: '2f9c1d1e-6a77-4f0e-9a51-7be8a4a0c0de', disks: ['a'] }));

describe('VM definitions at the target', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'tidemark-'));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  let nowMs = 0;
  const store = (key?: Uint8Array): DefinitionStore =>
    new DefinitionStore({
      storage: new NodeStorage(),
      clock: { ...nodeClock, monotonicMs: () => nowMs },
      random: nodeRandom,
      directory,
      key,
    });
  const files = (): string[] => readdirSync(join(directory, 'definitions'));

  test.each([undefined, Buffer.alloc(32, 7)])('are found again after a restart (key %p)', async (key) => {
    const blob = blobOf('db');
    await store(key).store(blob);
    expect(await store(key).has(blob.hash)).toBe(true);
    expect((await store(key).read(blob.hash)).name).toBe('db');
    expect(readFileSync(join(directory, 'definitions', blob.hash)).includes('db')).toBe(key === undefined);
  });

  test('a damaged one is refused, a half-written one is removed, an unknown one is named', async () => {
    const blob = blobOf('db');
    await store().store(blob);
    writeFileSync(join(directory, 'definitions', `${blob.hash}.new`), 'half');
    writeFileSync(join(directory, 'definitions', blob.hash), '{}');
    await expect(store().read(blob.hash)).rejects.toMatchObject({ code: 'journal-corrupt' });
    expect(files()).toEqual([blob.hash]);
    await expect(store().read('0'.repeat(64))).rejects.toMatchObject({ code: 'definition-unknown' });
    const nonsense = new TextEncoder().encode('{"name":1}');
    await expect(store().store({ hash: definitionHash(nonsense), content: nonsense })).rejects.toMatchObject({
      code: 'protocol-error',
    });
  });

  test('one that no checkpoint names goes after a day', async () => {
    const kept = blobOf('kept');
    const gone = blobOf('gone');
    const all = store();
    await all.store(kept);
    await all.store(gone);
    const checkpoint = { attributes: { definitions: { vm: kept.hash, wrong: 7 } } } as unknown as Checkpoint;
    expect(definitionsOf(checkpoint)).toEqual({ vm: kept.hash });
    await all.sweep([checkpoint]);
    nowMs += 23 * 3_600_000;
    await all.sweep([checkpoint]);
    expect(files()).toHaveLength(2);
    nowMs += 2 * 3_600_000;
    await all.sweep([checkpoint]);
    expect(files()).toEqual([kept.hash]);
  });

  test('are offered, sent when wanted, and named only when stored', async () => {
    const answers: DefinitionState[] = [];
    const intake = new DefinitionIntake(store(), (state) => {
      answers.push(state);
      offers.answered(state);
    });
    const offers = new DefinitionOffers(() => undefined);
    const session = {
      sendOffer: (hashes: string[]) => intake.offered({ hashes }),
      sendDefinition: (blob: ReturnType<typeof blobOf>) =>
        intake.arrived(decodeDefinition(Buffer.concat(encodeDefinition(blob)))),
    } as unknown as Session;
    const [first, second] = [blobOf('one'), blobOf('two')];
    offers.set('vm', first);
    expect(offers.named).toBeUndefined();
    offers.connected(session);
    await waitFor('the first is named', () => offers.named?.['vm'] === first.hash);
    offers.set('vm', second);
    expect(offers.named).toEqual({ vm: first.hash });
    await waitFor('the second is named', () => offers.named?.['vm'] === second.hash);
    offers.disconnected();
    offers.connected(session);
    await waitFor('the offer again is answered', () => answers.length === 5);
    expect(answers.map(({ state }) => state)).toEqual(['wanted', 'stored', 'wanted', 'stored', 'stored']);
    expect(() => intake.arrived(blobOf('three'))).toThrow('not asked for');
  });

  test('that change faster than the target answers: what it asked for always comes, and the newest in the end', async () => {
    const arrived: string[] = [];
    const intake = new DefinitionIntake(store(), (state) => setTimeout(() => offers.answered(state), 1));
    const offers = new DefinitionOffers(() => undefined);
    offers.connected({
      sendOffer: (hashes) => intake.offered({ hashes: [...hashes] }),
      sendDefinition: (blob) => {
        arrived.push(blob.hash);
        intake.arrived(blob);
      },
    });
    const blobs = Array.from({ length: 40 }, (_, index) => blobOf(`v${index}`));
    for (const blob of blobs) {
      offers.set('vm', blob);
      await new Promise(setImmediate);
    }
    await waitFor('the newest is named', () => offers.named?.['vm'] === blobs.at(-1)!.hash);
    expect(arrived.length).toBeLessThan(blobs.length);
    // A second VM is not held up by questions that nobody answered.
    offers.set('other', blobOf('other'));
    await waitFor('the other is named', () => offers.named?.['other'] === blobOf('other').hash);
  });

  test('one that is refused is not offered again before it changes, or the connection does', () => {
    const offered: string[][] = [];
    const refusals: string[] = [];
    const offers = new DefinitionOffers((vm) => refusals.push(vm));
    const session = {
      sendOffer: (hashes: readonly string[]) => void offered.push([...hashes]),
      sendDefinition: () => undefined,
    };
    const [first, second] = [blobOf('one'), blobOf('two')];
    offers.connected(session);
    offers.set('vm', first);
    offers.answered({ hash: first.hash, state: 'refused' });
    offers.set('vm', first);
    offers.set('vm', second);
    expect(offered).toEqual([[first.hash], [second.hash]]);
    offers.answered({ hash: second.hash, state: 'refused', reason: 'full' });
    offers.connected(session);
    expect(offered).toEqual([[first.hash], [second.hash], [second.hash]]);
    expect(refusals).toEqual(['vm', 'vm']);
  });

  test('a frame whose hash does not fit is refused', () => {
    const { hash, content } = blobOf('db');
    const frame = Buffer.concat(encodeDefinition({ hash, content }));
    for (const at of [0, 40, frame.length - 1]) {
      const damaged = Buffer.from(frame);
      damaged[at]! ^= 1;
      expect(() => decodeDefinition(damaged)).toThrow('hash');
    }
    expect(() => decodeDefinition(frame.subarray(0, 32))).toThrow('cut short');
  });
});
