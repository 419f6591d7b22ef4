/** Opens every listed checkpoint of a group as a view and compares its bytes with the model of acknowledged writes. */
import type { AgentClient } from '../../agent/src/client/agent-client.js';
import { NbdClient } from '../../agent/src/nbd/client.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import type { StampedDisk } from './stamped-disk.js';

/** Source time and the model's clock are read in two processes of one machine. */
const toleranceUs = 5000;
let lastView = 0;

export async function listCheckpoints(client: AgentClient, group: string): Promise<Checkpoint[]> {
  const all: Checkpoint[] = [];
  let before: string | null = null;
  do {
    const page = await client.checkpoints(group, { limit: 1000, ...(before === null ? {} : { before }) });
    all.push(...page.checkpoints);
    before = page.next;
  } while (before !== null);
  return all;
}

/**
 * What is wrong with the checkpoint; undefined: nothing. Incomplete ones are checked on the disks they have. `marks` false:
 * with several source agents there is no one moment of the mark.
 */
export async function checkCheckpoint(
  client: AgentClient,
  group: string,
  checkpoint: Pick<Checkpoint, 'id' | 'sourceTimeMs'>,
  disks: readonly StampedDisk[],
  { marks = true } = {},
): Promise<string | undefined> {
  const id = `verify-${++lastView}`;
  const view = await client.openView(group, {
    id,
    at: { by: 'id', checkpoint: checkpoint.id, allowIncomplete: true },
    purpose: 'browse',
  });
  try {
    const images = new Map<StampedDisk, Buffer>();
    for (const { name, uri } of view.disks) {
      const disk = disks.find((candidate) => candidate.name === name);
      if (disk !== undefined) images.set(disk, await readDisk(uri, disk.sizeBytes));
    }
    return checkImages(`checkpoint ${checkpoint.id}`, images, marks ? checkpoint.sourceTimeMs * 1000 : undefined);
  } finally {
    await client.closeView(group, id, { force: true });
  }
}

/** `markUs`: moment of the mark on the model's clock; undefined: only that the images are of one moment is checked. */
export function checkImages(
  what: string,
  images: ReadonlyMap<StampedDisk, Uint8Array>,
  markUs: number | undefined,
): string | undefined {
  let newestIssue = 0;
  for (const [{ model }, bytes] of images) newestIssue = Math.max(newestIssue, model.newestIssueSeen(bytes));
  for (const [{ model }, bytes] of images) {
    const atMark = markUs === undefined ? undefined : model.check(bytes, markUs - toleranceUs, markUs + toleranceUs);
    const wrong = atMark ?? model.check(bytes, newestIssue - 1, Infinity);
    if (wrong !== undefined) return `${what}: ${wrong}`;
  }
  return undefined;
}

export async function readDisk(uri: string, sizeBytes: number): Promise<Buffer> {
  const client = await NbdClient.open(uri, { clock: nodeClock });
  try {
    const bytes = Buffer.alloc(sizeBytes);
    await client.read(bytes, 0);
    return bytes;
  } finally {
    await client.close();
  }
}
