/** What a destroy of an appliance takes away, and what it never does, whether its agent answers or not. On this machine. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { GroupStatus } from '../../agent/src/service/group-schemas.js';
import type { ViewStatus } from '../../agent/src/service/view-schemas.js';
import { liveFiles } from '../../components/appliance/live-files.js';
import { openHost } from '../../components/appliance/open-host.js';
import { appliance } from '../../components/provider/appliance.js';
import type { Call } from '../../components/provider/resource.js';
import { Sites } from '../../components/provider/sites.js';
import type { Properties } from '../../components/provider/values.js';
import { ApiFixture } from '../support/api-fixture.js';

type ViewPurpose = ViewStatus['purpose'];
const urn = 'urn:pulumi:dev::p::tidemark:index:Appliance::fra';
const owner = `${urn} 0123`;

describe('destroying an appliance', () => {
  let root: string;
  let said: string[];
  let api: ApiFixture;
  beforeEach(async () => {
    root = mkdtempSync(join(tmpdir(), 'tidemark-'));
    said = [];
    api = await ApiFixture.start();
    write('appliance.json', JSON.stringify({ version: 1, owner, agent: 'src-1' }));
    write('data/groups/shop/manifest-current', 'history');
  });
  afterEach(async () => {
    await api.stop();
    rmSync(root, { recursive: true, force: true });
  });

  const at = (file: string): string => join(root, file);
  function write(file: string, text: string): void {
    mkdirSync(dirname(at(file)), { recursive: true });
    writeFileSync(at(file), text);
  }
  const call: Call = {
    ...{ urn, preview: false, signal: AbortSignal.timeout(60_000), sites: new Sites() },
    tell: { say: async (_severity, text) => void said.push(text), status: () => undefined },
  };
  async function destroy(forceDestroy: boolean, { answers = false } = {}): Promise<void> {
    const { certificate, key } = await api.issue('src-1');
    const port = answers ? Number(api.server.address.split(':')[1]) : 9;
    const before: Properties = {
      ...{ host: { kind: 'this-machine' }, site: 'fra', agent: 'src-1', directory: root, operators: [] },
      ...{ certificate, key, authority: api.authority.certificate, apiPort: port, streamPort: 9, forceDestroy, owner },
    };
    await appliance.delete('id', before, call);
  }
  const left = (): boolean[] =>
    ['appliance.json', 'data/groups/shop/manifest-current'].map((file) => existsSync(at(file)));
  const views = async (purpose: ViewPurpose): Promise<GroupStatus['views']> => {
    const id = `view-${purpose}`;
    return [{ ...(await api.service.openView('shop', { id, at: { by: 'latest' }, purpose: 'browse' })), purpose }];
  };
  const onlyGroup = (change: Partial<GroupStatus>): void => {
    const [[name, group] = []] = api.service.groupList;
    api.service.groupList.clear();
    api.service.groupList.set(name!, { ...group!, ...change });
  };

  test('its agent is dead and nothing is open: the agent goes, the journals stay unless they are to go', async () => {
    await destroy(false);
    expect(left()).toEqual([false, true]);
    expect(said.at(-1)).toContain(`does not answer: what it protects is not known. Its data stay in ${root}/data`);
    write('appliance.json', JSON.stringify({ version: 1, owner, agent: 'src-1' }));
    await destroy(true);
    expect(left()).toEqual([false, false]);
  });

  test.each([true, false])('its agent is dead, and a view is open: nothing goes (forceDestroy: %s)', async (force) => {
    write('data/groups/shop/views/production-f1/scratch.map', 'writes of a VM');
    await expect(destroy(force)).rejects.toMatchObject({
      ...{ code: 'illegal-state', message: expect.stringContaining('does not answer, and has views') },
    });
    expect(left()).toEqual([true, true]);
  });

  test.each([true, false])(
    'a VM was committed to its disks: forceDestroy deletes nothing (answers: %s)',
    async (answers) => {
      onlyGroup({ views: [] });
      write('data/groups/.retired/17954-shop/committed/shop-db-vda.raw', 'a disk');
      await expect(destroy(true, { answers })).rejects.toMatchObject({
        ...{ code: 'illegal-state', message: expect.stringContaining('committed') },
      });
      expect(left()).toEqual([true, true]);
    },
  );

  test('its agent answers: groups hold it up, and with forceDestroy only those that a VM runs on', async () => {
    onlyGroup({ views: await views('browse') });
    await expect(destroy(false, { answers: true })).rejects.toMatchObject({
      message: expect.stringContaining('set forceDestroy and run an update'),
    });
    for (const purpose of ['production', 'drill'] as const) {
      onlyGroup({ views: await views(purpose) });
      await expect(destroy(true, { answers: true })).rejects.toMatchObject({
        message: expect.stringContaining('VMs run on its views'),
      });
    }
    expect(left()).toEqual([true, true]);
    onlyGroup({ views: await views('browse') });
    await destroy(true, { answers: true });
    expect(left()).toEqual([false, false]);
  });

  test('what cannot be looked at is not nothing: a journal that cannot be mounted, a directory that is none', async () => {
    write('data.mount', 'echo no such device >&2; exit 1');
    await using host = await openHost({ kind: 'this-machine' });
    await expect(liveFiles(host, at('data'), at('data'))).rejects.toMatchObject({
      ...{ code: 'host-failed', message: expect.stringContaining('no such device') },
    });
    expect(await liveFiles(host, at('nowhere'), '')).toEqual({ committed: [], views: [] });
    writeFileSync(at('file'), '');
    await expect(liveFiles(host, at('file'), '')).rejects.toMatchObject({ code: 'host-failed' });
  });
});
