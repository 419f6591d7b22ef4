/**
 * The mirror of one disk by QMP: an NBD node on the agent's capture export, and a job that writes to both. `sync=none`: the
 * job copies nothing by itself, so that all that arrives is what the guest writes. `write-blocking`: the guest is answered
 * when both have it. The source node has every write before the export gets it.
 *
 * The job is paused as soon as it is ready: what mirrors are the guest's writes themselves. A job that runs ends up to 100 ms
 * after its target failed, and a forced cancellation at once; both free what writes still under way use (QEMU 7.2 to 10:
 * `mirror_run` frees `in_flight_bitmap` before it drains), and the VM dies of it. A paused one does nothing, and later
 * writes pass it by. It is resumed, to end, only when no write of that time can be under way any more.
 */
import { z } from 'zod';
import { sleep, type Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import { namedNodes } from '../hypervisor/block-nodes.js';
import { query, QmpError, type Monitor } from '../hypervisor/monitor.js';
import type { DiskNames } from './names.js';

const deadlineMs = 15_000;
const lookMs = 20;
/** Older than this is no write that QEMU began before its connection was lost. */
const settledMs = 1000;

const jobSchema = z.object({
  device: z.string(),
  ready: z.boolean().default(false),
  paused: z.boolean().default(false),
  status: z.string().default(''),
});
export type MirrorJob = z.infer<typeof jobSchema>;
const exportSchema = z.object({ id: z.string(), 'node-name': z.string() });

export function blockJobs(monitor: Monitor): Promise<MirrorJob[]> {
  return query(monitor, z.array(jobSchema), 'query-block-jobs');
}

/** False while QEMU waits for a VM that is migrated to it, or has given one away: its disks are not its own then. */
export async function ownsDisks(monitor: Monitor): Promise<boolean> {
  const { status } = await query(monitor, z.object({ status: z.string() }), 'query-status');
  return !['inmigrate', 'finish-migrate', 'postmigrate'].includes(status);
}

export function blockExports(monitor: Monitor): Promise<z.infer<typeof exportSchema>[]> {
  return query(monitor, z.array(exportSchema), 'query-block-exports');
}

/** Connects the disk's node with the capture export; resolves when every write of the guest goes to both. */
export async function startMirror(
  monitor: Monitor,
  clock: Clock,
  names: DiskNames,
  sourceNode: string,
  target: { readonly socketPath: string; readonly exportName: string },
): Promise<void> {
  await monitor.execute('blockdev-add', {
    ...{ driver: 'nbd', 'node-name': names.targetNode, export: target.exportName, discard: 'unmap' },
    // A lost agent is an error at once: the guest must not wait for it.
    'reconnect-delay': 0,
    server: { type: 'unix', path: target.socketPath },
  });
  await monitor.execute('blockdev-mirror', {
    ...{ 'job-id': names.job, device: sourceNode, target: names.targetNode, 'filter-node-name': names.filterNode },
    ...{ sync: 'none', 'copy-mode': 'write-blocking', 'on-target-error': 'report', 'auto-dismiss': true },
  });
  await until(clock, `mirror ${names.job} is ready`, async () => {
    const job = (await blockJobs(monitor)).find(({ device }) => device === names.job);
    if (job === undefined) throw new TidemarkError('hypervisor-failed', `The mirror ${names.job} failed as it began.`);
    return job.ready;
  });
  await monitor.execute('block-job-pause', { device: names.job });
  await until(clock, `mirror ${names.job} stands by`, async () => {
    const job = (await blockJobs(monitor)).find(({ device }) => device === names.job);
    if (job === undefined) throw new TidemarkError('hypervisor-failed', `The mirror ${names.job} failed as it began.`);
    return job.status === 'standby';
  });
}

/**
 * Takes away what is there of this disk: job, exports, the node of the connection. Only for an agent that answers: the
 * cancellation of a job waits for what its target has not acknowledged. `lostForMs`: since when the mirror serves nobody;
 * undefined: it may serve still.
 */
export async function clearMirror(
  monitor: Monitor,
  clock: Clock,
  names: DiskNames,
  lostForMs: number | undefined,
): Promise<void> {
  const hasJob = async (): Promise<boolean> => (await blockJobs(monitor)).some(({ device }) => device === names.job);
  if (await hasJob()) {
    if (lostForMs !== undefined) await settle(monitor, clock, lostForMs);
    await endJob(monitor, names.job);
    await until(clock, `mirror ${names.job} has ended`, async () => !(await hasJob()));
  }
  await clearExports(monitor, clock, [names.readerExport, names.bitmapExport]);
  if ((await namedNodes(monitor)).some((node) => node['node-name'] === names.targetNode))
    await tolerate(monitor.execute('blockdev-del', { 'node-name': names.targetNode }), /Failed to find/);
}

/** Until every write that a mirror had under way when it was lost has ended. */
async function settle(monitor: Monitor, clock: Clock, lostForMs: number): Promise<void> {
  await sleep(clock, Math.max(0, settledMs - lostForMs));
  // QEMU up to 8 waits for all writes before it looks at the actions, of which there are none.
  await monitor.execute('transaction', { actions: [] });
}

/** A job whose target failed ends by itself; another one completes, with every write on both sides. */
async function endJob(monitor: Monitor, job: string): Promise<void> {
  const gone = /not found|in use|finished|not paused/i;
  await tolerate(monitor.execute('block-job-resume', { device: job }), gone);
  await tolerate(monitor.execute('block-job-cancel', { device: job }), gone);
}

export async function clearExports(monitor: Monitor, clock: Clock, ids: readonly string[]): Promise<void> {
  const ours = async (): Promise<string[]> =>
    (await blockExports(monitor)).map(({ id }) => id).filter((id) => ids.includes(id));
  for (const id of await ours())
    await tolerate(
      monitor.execute('block-export-del', { id, mode: 'hard' }),
      /not found|does not exist|shutting down/i,
    );
  await until(clock, `exports ${ids.join(', ')} are gone`, async () => (await ours()).length === 0);
}

/** What was done by itself meanwhile is no error. */
async function tolerate(done: Promise<unknown>, refusal: RegExp): Promise<void> {
  try {
    await done;
  } catch (error) {
    if (!(error instanceof QmpError) || !(refusal.test(error.message) || error.qmpClass === 'DeviceNotActive'))
      throw error;
  }
}

async function until(clock: Clock, what: string, done: () => Promise<boolean>): Promise<void> {
  const endMs = clock.monotonicMs() + deadlineMs;
  while (!(await done())) {
    if (clock.monotonicMs() > endMs) throw new TidemarkError('timed-out', `${what}: not within ${deadlineMs} ms.`);
    await sleep(clock, lookMs);
  }
}
