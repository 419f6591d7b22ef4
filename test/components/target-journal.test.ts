/** Whose a journal is: only its owner deletes it, and a rename without an alias never does. On this machine. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { targetJournal } from '../../components/provider/appliance-journal.js';
import type { Call, State } from '../../components/provider/resource.js';
import { Sites } from '../../components/provider/sites.js';

const urn = (name: string): string => `urn:pulumi:dev::p::tidemark:index:TargetJournal::${name}`;

describe('the owner of a journal', () => {
  let root: string;
  let said: string[];
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'tidemark-'));
    said = [];
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  const directory = (): string => join(root, 'journal');
  const history = (): string => join(directory(), 'data', 'groups', 'shop', 'manifest-current');
  const call = (name: string, preview = false): Call & { existed: boolean } => ({
    ...{ urn: urn(name), preview, existed: false, signal: AbortSignal.timeout(60_000), sites: new Sites() },
    tell: { say: async (_severity, text) => void said.push(text), status: () => undefined },
  });
  const given = (forceDestroy: boolean) => ({ host: { kind: 'this-machine' }, directory: directory(), forceDestroy });
  async function made(name: string, forceDestroy: boolean): Promise<State> {
    const state = await targetJournal.create(given(forceDestroy), call(name));
    mkdirSync(join(history(), '..'), { recursive: true });
    writeFileSync(history(), 'history');
    return state;
  }

  test('another name without an alias is refused; a create that was cut short goes on', async () => {
    await made('old', true);
    await expect(targetJournal.create(given(true), call('young'))).rejects.toMatchObject({
      code: 'host-failed',
      message: expect.stringContaining('aliases'),
    });
    await targetJournal.create(given(true), call('old'));
    expect(existsSync(history())).toBe(true);
  });

  test('by an alias it is an update, and what the old name still deletes is not its own', async () => {
    const { id, outputs } = await made('old', true);
    expect(targetJournal.changes!(urn('old'), outputs).size).toBe(0);
    expect([...targetJournal.changes!(urn('young'), outputs)]).toEqual([['owner', 'update']]);
    const planned = await targetJournal.update(id, outputs, given(true), call('young', true));
    const renamed = await targetJournal.update(id, outputs, given(true), call('young'));
    expect(renamed).toEqual(planned);
    // Cut short before its state was saved, it runs again.
    expect(await targetJournal.update(id, outputs, given(true), call('young'))).toEqual(renamed);
    await targetJournal.delete(id, outputs, call('old'));
    expect([existsSync(history()), said.at(-1)]).toEqual([true, expect.stringContaining('stay: they belong to')]);
    await targetJournal.delete(id, renamed, call('young'));
    expect(existsSync(directory())).toBe(false);
  });

  test('forceDestroy counts as the last update left it; without it the data stay, and may be given to another', async () => {
    const { id, outputs } = await made('old', false);
    await targetJournal.delete(id, outputs, call('old'));
    expect(existsSync(history())).toBe(true);
    const next = await targetJournal.create(given(true), call('young'));
    const kept = await targetJournal.update(id, next.outputs, given(false), call('young'));
    await targetJournal.delete(next.id, kept, call('young'));
    expect(existsSync(history())).toBe(true);
  });

  test.each([
    ['groups/shop/committed/data.raw', 'disks that were committed'],
    ['groups/.retired/1795466995-shop/committed/data.raw', 'disks that were committed'],
    ['machines/shop/4f3a/vda.img', 'files of VMs'],
    ['groups/shop/views/production-f1/scratch.map', 'views that VMs may run on'],
  ])('forceDestroy deletes no disk that a VM may run on: %s', async (file, why) => {
    const { id, outputs } = await made('old', true);
    const path = join(directory(), 'data', file);
    mkdirSync(join(path, '..'), { recursive: true });
    writeFileSync(path, 'a disk');
    await expect(targetJournal.delete(id, outputs, call('old'))).rejects.toMatchObject({
      ...{ code: 'illegal-state', path: 'forceDestroy' },
      message: expect.stringContaining(why),
    });
    expect([existsSync(path), existsSync(history())]).toEqual([true, true]);
    rmSync(path);
    await targetJournal.delete(id, outputs, call('old'));
    expect(existsSync(directory())).toBe(false);
  });

  test('one of a package that wrote no owner is deleted as it was', async () => {
    const { id, outputs } = await made('old', true);
    rmSync(join(directory(), 'owner'));
    await targetJournal.delete(id, outputs, call('old'));
    expect(existsSync(directory())).toBe(false);
  });
});
