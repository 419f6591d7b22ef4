/**
 * QEMU's own NBD server: how the agent reads a disk of a running VM, and which of its parts a bitmap marks. A QEMU has one
 * such server, which backup programs use too: one that is there already is used when it is ours, never stopped else.
 */
import type { Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import { QmpError, type Monitor } from '../hypervisor/monitor.js';
import type { ByteRange } from '../link/coverage.js';
import { NbdClient } from '../nbd/client.js';
import { NbdBlockDevice } from '../nbd/nbd-block-device.js';
import { blockExports, clearExports } from './mirror-job.js';

/** Asked at once: 64 KiB parts give at most 16 Ki runs. */
const askBytes = 1024 * 1024 * 1024;

export interface VmExports {
  readonly monitor: Monitor;
  readonly clock: Clock;
  /** Where QEMU listens for us. */
  readonly socketPath: string;
}

/** Starts the server, or finds ours. Throws `vm-refused` when somebody else's is running. */
export async function startServer({ monitor, clock, socketPath }: VmExports): Promise<void> {
  try {
    await monitor.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socketPath } } });
  } catch (error) {
    if (!(error instanceof QmpError) || !/already running/.test(error.message)) throw error;
    if (await answers(socketPath, clock)) return;
    throw new TidemarkError(
      'vm-refused',
      `QEMU's one NBD server is in use by another program (a backup?): the disk cannot be read for a sync until it has ended.`,
      { cause: error },
    );
  }
}

/** Stops the server when nobody's exports but `ids` are on it. */
export async function stopServer({ monitor, clock, socketPath }: VmExports, ids: readonly string[]): Promise<void> {
  await clearExports(monitor, clock, ids);
  if ((await blockExports(monitor)).length > 0 || !(await answers(socketPath, clock))) return;
  await monitor.execute('nbd-server-stop').catch((error: unknown) => {
    if (!(error instanceof QmpError)) throw error;
  });
}

/** Exports a node for reading, and opens it. */
export async function openReader(at: VmExports, id: string, nodeName: string): Promise<NbdBlockDevice> {
  await addExport(at, id, nodeName, []);
  return new NbdBlockDevice(await connect(at, id));
}

/** What the (disabled) bitmap marks, in order, neighbours joined. */
export async function readBitmap(at: VmExports, id: string, nodeName: string, bitmap: string): Promise<ByteRange[]> {
  await addExport(at, id, nodeName, [bitmap]);
  try {
    const client = await connect(at, id, `qemu:dirty-bitmap:${bitmap}`);
    try {
      return await dirtyRanges(client);
    } finally {
      await client.close();
    }
  } finally {
    await clearExports(at.monitor, at.clock, [id]);
  }
}

async function addExport(at: VmExports, id: string, nodeName: string, bitmaps: readonly string[]): Promise<void> {
  await startServer(at);
  const extra = bitmaps.length === 0 ? {} : { bitmaps };
  await at.monitor.execute('block-export-add', {
    ...{ type: 'nbd', id, name: id, 'node-name': nodeName, writable: false, ...extra },
  });
}

function connect({ clock, socketPath }: VmExports, exportName: string, metaContext?: string): Promise<NbdClient> {
  const address = { at: { socketPath }, exportName, tls: false };
  return NbdClient.open(address, { clock, ...(metaContext === undefined ? {} : { metaContext }) });
}

async function dirtyRanges(client: NbdClient): Promise<ByteRange[]> {
  if (client.info.contextId === undefined)
    throw new TidemarkError('protocol-error', 'QEMU did not offer the bitmap through its NBD export.');
  const ranges: ByteRange[] = [];
  for (let at = 0; at < client.sizeBytes;) {
    for (const { lengthBytes, hole: dirty } of await client.extents(at, Math.min(askBytes, client.sizeBytes - at))) {
      const last = ranges.at(-1);
      if (dirty && last !== undefined && last.offsetBytes + last.lengthBytes === at)
        ranges[ranges.length - 1] = { offsetBytes: last.offsetBytes, lengthBytes: last.lengthBytes + lengthBytes };
      else if (dirty) ranges.push({ offsetBytes: at, lengthBytes });
      at += lengthBytes;
    }
  }
  return ranges;
}

/** An NBD server listens there. Asking for an export that it has not is answer enough. */
async function answers(socketPath: string, clock: Clock): Promise<boolean> {
  try {
    const client = await NbdClient.open(
      { at: { socketPath }, exportName: 'tidemark-none', tls: false },
      { clock, handshakeMs: 2000 },
    );
    await client.close();
    return true;
  } catch (error) {
    return isTidemarkError(error, 'disk-unknown');
  }
}
