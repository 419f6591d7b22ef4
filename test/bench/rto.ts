/**
 * From the stop of the source to the first VM's boot, at the latest and the oldest checkpoint of a journal of realistic
 * size; beside it the restore of the same disk by `qemu-img convert` from a full backup.
 */
import { randomFillSync } from 'node:crypto';
import { closeSync, existsSync, openSync, readFileSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { RecordKind } from '../../agent/src/block/record.js';
import type { SourceGroup } from '../../agent/src/capture/source-group.js';
import { issueInto } from '../../agent/src/pki/directory.js';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import type { Operation, OperationRequest } from '../../agent/src/service/operation-schemas.js';
import type { AgentHandle } from '../support/agent-handle.js';
import { countingDefinition, definitionBlob, writeCountingDisk } from '../support/counting-guest.js';
import { Laboratory } from '../support/laboratory.js';
import { startLibrarySource } from '../support/library-source.js';
import { PrivateLibvirt } from '../support/private-libvirt.js';
import { whyNoVms } from '../support/vm-host.js';
import { waitFor } from '../support/wait.js';
import type { Benchmark } from './context.js';
import type { Goal, Table } from './report.js';
import { GiB, MiB, number, series, spread } from './statistics.js';

const group = 'shop';
const disk = 'count-vda';
const uuid = '5f0c1d1e-6a77-4f0e-9a51-7be8a4a0c0de';
const places = ['latest', 'oldest'] as const;
type Place = (typeof places)[number];
const goalMs = { latest: 2000, oldest: 3000 };
/** The guest's boot sector and counter lie before it. */
const firstByte = MiB;
const writeBytes = 64 * 1024;

interface Recovery {
  /** From the stop of the source until the target says that it is gone. */
  readonly noticedMs: number;
  /** From the request to the return of the first VM's start, as the agent says. */
  readonly bootMs: number;
  /** From the request until the guest wrote on its serial port. */
  readonly aliveMs: number;
}

export const rto: Benchmark = {
  name: 'rto',
  async run(context) {
    const why = whyNoVms();
    if (why !== undefined) throw new Error(`no VMs on this machine: ${why}`);
    const { plan, say } = context;
    await using lab = await Laboratory.open();
    await using libvirt = await PrivateLibvirt.start(lab.processes, join(lab.directory, 'v'));
    writeFileSync(
      lab.path('production.xml'),
      "<network><name>production</name><bridge stp='off' delay='0'/></network>",
    );
    await libvirt.virsh.run(['net-create', lab.path('production.xml')]);
    const { diskBytes, journalBytes, checkpointCount, rounds } = plan.rto;
    const target = await startTarget(lab, libvirt, diskBytes);
    const file = lab.path('source-disks', `${disk}.raw`);
    writeCountingDisk(file, diskBytes, 1);
    let source = await protect(lab, target, file);
    await fill(source, file, plan.rto);
    const usage = await target.client.group(group);
    say(`journal of ${number(journalBytes / GiB)} GiB, ${checkpointCount} checkpoints written`);

    const recoveries: Record<Place, Recovery[]> = { latest: [], oldest: [] };
    const restores: number[] = [];
    for (let round = 0; round < rounds; round++) {
      for (const place of places) {
        recoveries[place].push(await recover(libvirt, target, source, place, `${place}-${round}`));
        await run(target, `back-${place}-${round}`, { kind: 'rollback', arguments: { keepHours: 1 } });
        source = await protect(lab, target, file);
      }
      restores.push(await restore(lab, file));
    }
    await source.close();
    await target.stop();
    for (const place of places) say(`${place}: ${spread(series(recoveries[place].map(({ bootMs }) => bootMs)))} ms`);
    const goals: Goal[] = places.map((place) => ({
      name: `rto, ${place} checkpoint`,
      measured: series(recoveries[place].map(({ bootMs }) => bootMs)),
      bound: goalMs[place],
      direction: 'at most',
      unit: 'ms',
      hint: 'See the steps of the failover in the agent’s log: the view, virsh define and start.',
    }));
    const table: Table = {
      title: 'Time to the first VM’s boot, ms',
      head: [
        'checkpoint',
        'source’s end noticed',
        'request to boot',
        'request to the guest’s first word',
        'qemu-img convert',
      ],
      rows: places.map((place) => [
        place,
        ...(['noticedMs', 'bootMs', 'aliveMs'] as const).map((key) =>
          spread(series(recoveries[place].map((each) => each[key]))),
        ),
        spread(series(restores)),
      ]),
    };
    return {
      title: 'Recovery time',
      goals,
      tables: [table],
      notes: [
        `A disk of ${diskBytes / MiB} MiB, ${number(journalBytes / GiB)} GiB of incompressible writes of 64 KiB, ` +
          `${usage.journal?.checkpointCount ?? 0} checkpoints, ${rounds} rounds. The VM has no operating system; QEMU emulates.`,
        'The source is a process that ends its connection; an unreachable one is noticed after the stream’s keep-alive. The ' +
          'restore reads a qcow2 backup of the same disk from the page cache and ends with an fsync.',
      ],
    };
  },
};

async function startTarget(lab: Laboratory, libvirt: PrivateLibvirt, sizeBytes: number): Promise<AgentHandle> {
  await issueInto(lab.pkiDirectory, 'source');
  return lab.startAgent('target', {
    peers: [{ name: 'source' }],
    hypervisors: [{ name: 'local', kind: 'libvirt', uri: libvirt.uri }],
    targetGroups: [
      {
        name: group,
        streams: ['source'],
        disks: [{ name: disk, sizeBytes, stream: 'source' }],
        checkpointIntervalSeconds: 1,
        recovery: { hypervisor: 'local', vms: [{ vm: 'count' }] },
      },
    ],
  });
}

/** Resolves when a complete checkpoint made after the call is durable. */
async function protect(lab: Laboratory, target: AgentHandle, file: string): Promise<SourceGroup> {
  const sinceMs = Date.now();
  const disks = [{ name: disk, sizeBytes: statSync(file).size, file }];
  const source = await startLibrarySource(lab, { agent: 'source', group, disks, target });
  source.setDefinition('count', definitionBlob(countingDefinition({ name: 'count', uuid, disks: [disk] })));
  await waitFor(
    'the group is protected',
    async () => {
      const { state, newestCheckpoint: newest } = await target.client.group(group);
      return (
        state === 'protecting' &&
        newest !== null &&
        newest.sourceTimeMs > sinceMs &&
        newest.attributes['definitions'] !== undefined
      );
    },
    { timeoutMs: 120_000 },
  );
  return source;
}

/** Writes go to the disk and to the group, with a checkpoint after each of `checkpointCount` equal parts. */
async function fill(
  source: SourceGroup,
  file: string,
  { diskBytes, journalBytes, checkpointCount }: { diskBytes: number; journalBytes: number; checkpointCount: number },
): Promise<void> {
  const fd = openSync(file, 'r+');
  const places = Math.floor((diskBytes - firstByte) / writeBytes);
  const writesEach = Math.ceil(journalBytes / checkpointCount / writeBytes);
  let place = 1;
  for (let part = 0; part < checkpointCount; part++) {
    for (let write = 0; write < writesEach; write++) {
      const bytes = randomFillSync(Buffer.allocUnsafeSlow(writeBytes));
      // Scattered, and the same in every run.
      place = (place * 48_271) % 2_147_483_647;
      const offsetBytes = firstByte + (place % places) * writeBytes;
      writeSync(fd, bytes, 0, writeBytes, offsetBytes);
      const payload = { bytes, retain: () => undefined, release: () => undefined };
      await source.capture({ disk: 0, kind: RecordKind.write, offsetBytes, lengthBytes: writeBytes, payload });
    }
    source.tag(`part-${part}`);
    const { sequenceGiven } = source.status.links[0]!;
    await waitFor('the part is durable', () => source.status.links[0]!.sequenceDurable >= sequenceGiven, {
      ...{ timeoutMs: 60_000, everyMs: 2 },
    });
  }
  closeSync(fd);
}

async function recover(
  libvirt: PrivateLibvirt,
  target: AgentHandle,
  source: SourceGroup,
  place: Place,
  id: string,
): Promise<Recovery> {
  const checkpoint = await checkpointAt(target, place);
  const stoppedMs = performance.now();
  await source.close();
  await waitFor('the target knows', async () => (await target.client.group(group)).state === 'disconnected', {
    ...{ timeoutMs: 60_000, everyMs: 5 },
  });
  const requestedMs = performance.now();
  const { result } = await run(target, id, {
    kind: 'failover',
    arguments: { at: { by: 'id', checkpoint: checkpoint.id }, sourceMayBeAlive: true },
  });
  const log = /<source path='([^']*serial0.log)'/.exec(await libvirt.virsh.run(['dumpxml', uuid]))?.[1] ?? '';
  await waitFor('the guest counts', () => existsSync(log) && readFileSync(log, 'utf8').includes('.'), {
    ...{ timeoutMs: 60_000, everyMs: 5 },
  });
  const aliveMs = performance.now() - requestedMs;
  return { noticedMs: requestedMs - stoppedMs, bootMs: Number(result?.['firstBootMs']), aliveMs };
}

/** Of those that are complete and know the VM. */
async function checkpointAt(target: AgentHandle, place: Place): Promise<Checkpoint> {
  const all: Checkpoint[] = [];
  for (let before: string | undefined; ;) {
    const page = await target.client.checkpoints(group, {
      ...{ complete: true, limit: 1000 },
      ...(before === undefined ? {} : { before }),
    });
    all.push(...page.checkpoints.filter(({ attributes }) => attributes['definitions'] !== undefined));
    if (page.next === null) break;
    before = page.next;
  }
  return place === 'latest' ? all[0]! : all.at(-1)!;
}

async function run(target: AgentHandle, id: string, request: Omit<OperationRequest, 'group'>): Promise<Operation> {
  await target.client.startOperation(id, { ...request, group } as OperationRequest);
  const done = await target.client.waitOperation(id, () => undefined, AbortSignal.timeout(120_000));
  if (done.state !== 'succeeded') throw new Error(`${id}: ${done.state} ${JSON.stringify(done.error)}`);
  return done;
}

/** Milliseconds to write the whole disk from a backup of it. */
async function restore(lab: Laboratory, file: string): Promise<number> {
  const [backup, restored] = [lab.path('backup.qcow2'), lab.path('restored.raw')];
  if (!existsSync(backup)) await lab.processes.run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', file, backup]);
  const startMs = performance.now();
  await lab.processes.run('qemu-img', ['convert', '-f', 'qcow2', '-O', 'raw', '-t', 'writeback', backup, restored]);
  await lab.processes.run('sync', [restored]);
  const ms = performance.now() - startMs;
  rmSync(restored);
  return ms;
}
