/** Operations of a target group besides the transitions: pin, unpin, verify, export, resolve-fork, rebuild. */
import { TidemarkError } from '../core/errors.js';
import { convertDisk } from '../service/convert.js';
import type { CheckpointSelector } from '../target/checkpoints.js';
import { resolveCheckpoint } from '../target/checkpoints.js';
import { disksAt, disksKept } from '../target/disk-set.js';
import type { TargetGroup } from '../target/group.js';
import type { OperationPlan, StepContext } from '../target/operations.js';

const quick = { mustFinish: false, exclusive: false } as const;

/** What the plans need of the agent besides the group. */
export interface PlanHost {
  /** Remakes the group's rows in the catalogue; returns how many. */
  rebuildCatalogue(): Promise<number>;
  /** NBD URI of a disk of an open view. */
  diskUri(view: string, disk: string): string;
}

export function groupPlans(group: TargetGroup, host: PlanHost): ReadonlyMap<string, OperationPlan> {
  return new Map<string, OperationPlan>([
    [
      'pin',
      {
        ...quick,
        prepare: async (context, args) => {
          const checkpoint = resolveCheckpoint(context.checkpoints(), args['at'] as CheckpointSelector);
          const { pin: id, reason } = args as { pin: string; reason: string };
          await context.manifest.append({ type: 'pin', id, checkpoint: checkpoint.id, reason, removed: false });
          return { checkpoint: checkpoint.id };
        },
        steps: [],
      },
    ],
    [
      'unpin',
      {
        ...quick,
        prepare: async (context, args) => {
          const known = context.manifest.state.pins.get(String(args['pin']));
          if (known !== undefined) await context.manifest.append({ ...known, removed: true });
          return { found: known !== undefined };
        },
        steps: [],
      },
    ],
    [
      'forget-disk',
      {
        ...quick,
        prepare: async (_context, args) => {
          await group.forgetDisk(String(args['disk']));
          return {};
        },
        steps: [],
      },
    ],
    ['verify', { ...quick, prepare: prepareVerify, steps: [{ name: 'read', run: (step) => verify(group, step) }] }],
    [
      'export',
      { ...quick, prepare: prepareExport, steps: [{ name: 'copied', run: (step) => exportDisks(group, host, step) }] },
    ],
    [
      'resolve-fork',
      {
        mustFinish: false,
        exclusive: true,
        prepare: (_context, args) => Promise.resolve({ keep: args['keep'] }),
        steps: [{ name: 'epoch', run: (step) => resolveFork(step) }],
      },
    ],
    // The directory was taken over before the group could record anything; the record says that it was.
    ['adopt', { ...quick, prepare: () => Promise.resolve({}), steps: [] }],
    [
      'rebuild',
      {
        ...quick,
        prepare: () => Promise.resolve({}),
        steps: [{ name: 'rebuilt', run: async () => ({ rows: await host.rebuildCatalogue() }) }],
      },
    ],
  ]);
}

type Prepare = OperationPlan['prepare'];

const prepareVerify: Prepare = (context, args) => {
  const at = args['at'] as CheckpointSelector | undefined;
  return Promise.resolve(at === undefined ? {} : { checkpoint: resolveCheckpoint(context.checkpoints(), at).id });
};

/** Reads all that is asked for and checks every checksum; a finding fails the operation with its code. */
async function verify(group: TargetGroup, step: StepContext): Promise<Record<string, unknown>> {
  const { journal, replicas, manifest } = group.context;
  const args = step.record.arguments as { journal: boolean; replica: boolean };
  const replicaBytes = disksKept(manifest.state).reduce((sum, disk) => sum + disk.sizeBytes, 0);
  const journalBytes = journal.usage.bytes;
  const totalBytes = (args.journal ? journalBytes : 0) + (args.replica ? replicaBytes : 0);
  let before = 0;
  if (args.journal) {
    await journal.verify((done) => step.progress(Math.min(done, journalBytes), totalBytes), step.signal);
    before = journalBytes;
  }
  if (args.replica) {
    const damaged = await replicas.verify((done) => step.progress(before + done, totalBytes), step.signal);
    if (damaged.length > 0) {
      const names = new Map(disksKept(manifest.state).map(({ index, name }) => [index, name]));
      const list = damaged.slice(0, 5).map(({ disk, chunk }) => `${names.get(disk) ?? disk} chunk ${chunk}`);
      throw new TidemarkError(
        'replica-mismatch',
        `${damaged.length} chunks of the replica do not match their digests: ${list.join(', ')}.`,
      );
    }
  }
  const checkpoint = step.record.result?.['checkpoint'];
  if (typeof checkpoint !== 'string') return { journalBytes, replicaBytes };
  const digests: Record<string, string> = {};
  const view = await group.views.open(temporaryView(step.record.id, checkpoint));
  try {
    for (const name of view.disks.keys()) digests[name] = await group.views.hash(view.record.id, name, step.signal);
  } finally {
    await group.views.close(view.record.id);
  }
  return { journalBytes, replicaBytes, checkpoint, sha256: digests };
}

function temporaryView(operation: string, checkpoint: string): Parameters<TargetGroup['views']['open']>[0] {
  const id = `op-${operation.toLowerCase().replaceAll(/[^a-z0-9.-]/g, '-')}`.slice(0, 60);
  return { id, at: { by: 'id', checkpoint, allowIncomplete: true }, purpose: 'browse', scratchLimitBytes: 1024 * 1024 };
}

const prepareExport: Prepare = (context, args) => {
  const checkpoint = resolveCheckpoint(context.checkpoints(), args['at'] as CheckpointSelector);
  const known = new Set(disksAt(context.manifest.state, checkpoint.vector).map(({ name }) => name));
  for (const name of (args['disks'] as string[] | undefined) ?? []) {
    if (!known.has(name))
      throw new TidemarkError('disk-unknown', `Group ${context.name} has no disk ${name}.`, {
        path: 'arguments.disks',
      });
  }
  return Promise.resolve({ checkpoint: checkpoint.id });
};

async function exportDisks(group: TargetGroup, host: PlanHost, step: StepContext): Promise<Record<string, unknown>> {
  const { directory, format, disks } = step.record.arguments as {
    directory: string;
    format: 'raw' | 'qcow2';
    disks?: string[];
  };
  const checkpoint = String(step.record.result?.['checkpoint']);
  const view = await group.views.open(temporaryView(step.record.id, checkpoint));
  try {
    const chosen = [...view.disks].filter(([name]) => disks === undefined || disks.includes(name));
    const totalBytes = chosen.reduce((sum, [, { sizeBytes }]) => sum + sizeBytes, 0);
    const files: string[] = [];
    let before = 0;
    for (const [name, { sizeBytes }] of chosen) {
      const file = `${directory}/${name}.${format}`;
      const done = (share: number): void => step.progress(before + Math.round(share * sizeBytes), totalBytes);
      await convertDisk({
        uri: host.diskUri(view.record.id, name),
        file,
        format,
        onProgress: done,
        signal: step.signal,
      });
      before += sizeBytes;
      files.push(file);
    }
    return { files };
  } finally {
    await group.views.close(view.record.id);
  }
}

/** `target`: our history stays, the source must start anew behind a higher epoch; `source`: the source's counts. */
async function resolveFork(step: StepContext): Promise<Record<string, unknown>> {
  const { group, record } = step;
  const keep = String(record.result?.['keep']);
  const current = group.manifest.state.epochs.at(-1);
  const reason = `resolve-fork ${record.id}`;
  if (current !== undefined && current.reason !== reason) {
    const branch =
      (record.arguments['branch'] as string | undefined) ?? Buffer.from(group.random.bytes(8)).toString('hex');
    await group.manifest.append({
      type: 'epoch',
      epoch: current.epoch + 1,
      branch: keep === 'source' ? branch : Buffer.from(group.random.bytes(8)).toString('hex'),
      parentBranch: current.branch,
      holder: keep === 'source' ? 'source' : current.holder,
      reason,
      wallMs: group.clock.wallMs(),
    });
  }
  return { epoch: group.manifest.state.epochs.at(-1)?.epoch };
}
