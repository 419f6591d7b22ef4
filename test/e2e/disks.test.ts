/** Disks of a running group grow, come and go by a reload of the source's configuration; history keeps what they were. */
import { expect, test } from '@jest/globals';
import { truncateSync } from 'node:fs';
import { Laboratory } from '../support/laboratory.js';
import { startPair, type Pair } from '../support/pair.js';
import { makeSparseFile, runQemuIo } from '../support/tools.js';
import { waitFor } from '../support/wait.js';
import { tidemarkJson } from './cli.js';

const MiB = 1024 * 1024;

interface Disk {
  readonly name: string;
  readonly kind: 'mirror' | 'in-path';
  readonly sizeBytes: number;
  readonly file: string;
}

async function reload(pair: Pair, disks: readonly Disk[]): Promise<void> {
  const { source, target, group } = pair;
  source.configure({
    peers: [{ name: target.name, address: target.addresses.stream }],
    sourceGroups: [
      {
        name: group,
        targets: [{ peer: target.name }],
        checkpointIntervalSeconds: 1,
        disks: disks.map(({ name, kind, sizeBytes, file }) =>
          kind === 'mirror' ? { kind, name, sizeBytes, source: file } : { kind, name, sizeBytes, file },
        ),
      },
    ],
  });
  process.kill(source.pid, 'SIGHUP');
  await waitFor('a complete checkpoint with these disks', async () => {
    const { newestCheckpoint, disks: there } = await target.client.group(group);
    const now = there.filter(({ state }) => state !== 'removed').map(({ name, sizeBytes }) => `${name} ${sizeBytes}`);
    const wanted = disks.map(({ name, sizeBytes }) => `${name} ${sizeBytes}`);
    return now.toSorted().join() === wanted.toSorted().join() && newestCheckpoint?.diskCount === disks.length;
  });
}

/** Disks of a labelled checkpoint with their sizes in MiB, and the byte that the first and last MiB of each hold. */
async function look(
  lab: Laboratory,
  pair: Pair,
  label: string,
  bytes: Record<string, [number, number]>,
): Promise<void> {
  const { client } = pair.target;
  const view = await client.openView(pair.group, { id: `look-${label}`, at: { by: 'label', label } });
  expect(view.disks.map(({ name }) => name).toSorted()).toEqual(Object.keys(bytes).toSorted());
  for (const { name, uri, sizeBytes } of view.disks) {
    const [first, last] = bytes[name]!;
    await runQemuIo(lab.processes, uri, [`read -P ${first} 0 1M`, `read -P ${last} ${sizeBytes - MiB} 1M`]);
  }
  await client.closeView(pair.group, view.id);
}

test('grow, add and remove disks under protection', async () => {
  await using lab = await Laboratory.open();
  const data = {
    name: 'data',
    kind: 'in-path',
    sizeBytes: 8 * MiB,
    file: makeSparseFile(lab.path('data.raw'), 8 * MiB),
  } as const;
  const logs = {
    name: 'logs',
    kind: 'in-path',
    sizeBytes: 4 * MiB,
    file: makeSparseFile(lab.path('logs.raw'), 4 * MiB),
  } as const;
  const pair = await startPair(lab, { checkpointIntervalSeconds: 1, disks: [data] });
  await pair.waitProtecting();
  const fill = async (disk: string, byte: number, at: number): Promise<void> => {
    await runQemuIo(lab.processes, await pair.exportUri(disk), [`write -P ${byte} ${at} 1M`]);
  };
  const tag = async (label: string): Promise<void> => {
    await pair.source.client.createCheckpoint(pair.group, { kind: 'tagged', label });
  };
  await fill('data', 1, 0);
  await fill('data', 2, 7 * MiB);
  await tag('small');

  truncateSync(data.file, 16 * MiB);
  const grown = { ...data, sizeBytes: 16 * MiB };
  await reload(pair, [grown]);
  await fill('data', 3, 15 * MiB);
  await tag('grown');

  await reload(pair, [grown, logs]);
  await fill('logs', 4, 0);
  await fill('logs', 5, 3 * MiB);
  await tag('added');

  await reload(pair, [logs]);
  await fill('logs', 6, 0);
  await tag('removed');

  const check = async (): Promise<void> => {
    await look(lab, pair, 'small', { data: [1, 2] });
    await look(lab, pair, 'grown', { data: [1, 3] });
    await look(lab, pair, 'added', { data: [1, 3], logs: [4, 5] });
    await look(lab, pair, 'removed', { logs: [6, 5] });
  };
  await check();
  await pair.target.kill();
  await pair.target.start();
  await check();

  // An agent that starts without a disk removes nothing; a person gives it up.
  await reload(pair, [logs, grown]);
  await pair.source.stop();
  pair.source.configure({
    peers: [{ name: pair.target.name, address: pair.target.addresses.stream }],
    sourceGroups: [
      {
        name: pair.group,
        targets: [{ peer: pair.target.name }],
        checkpointIntervalSeconds: 1,
        disks: [{ kind: 'in-path', name: 'logs', sizeBytes: logs.sizeBytes, file: logs.file }],
      },
    ],
  });
  await pair.source.start();
  await waitFor('the alert', async () =>
    (await pair.targetStatus()).alerts.some(({ code }) => code === 'disk-missing'),
  );
  const before = (await pair.targetStatus()).newestCheckpoint;
  const forgotten = await tidemarkJson<{ state: string }>(
    lab,
    pair.target,
    'group',
    'forget-disk',
    pair.group,
    '--disk',
    'data',
  );
  expect(forgotten.state).toBe('succeeded');
  await waitFor('complete again', async () => {
    const { newestCheckpoint, alerts } = await pair.targetStatus();
    return alerts.length === 0 && newestCheckpoint?.diskCount === 1 && newestCheckpoint.id !== before?.id;
  });
});
