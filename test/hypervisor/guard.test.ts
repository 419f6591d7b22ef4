/** A hung agent must not hold the guest: QEMU without a guest, a mirror to a real agent, the agent made to hang. */
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { BareQemu } from '../support/bare-qemu.js';
import { Laboratory } from '../support/laboratory.js';
import { startPair, type Pair, type PairOptions } from '../support/pair.js';
import { SteadyWriter, type WriterOptions } from '../support/steady-writer.js';
import { makeSparseFile } from '../support/tools.js';
import { waitFor } from '../support/wait.js';

const MiB = 1024 * 1024;
const sizeBytes = 64 * MiB;
/** What a guest may wait at most. */
const stallMsMax = 2000;

interface Rig {
  readonly lab: Laboratory;
  readonly pair: Pair;
  readonly qemu: BareQemu;
  readonly file: string;
}

describe('guard', () => {
  let lab: Laboratory;
  beforeEach(async () => {
    lab = await Laboratory.open();
  });
  afterEach(() => lab.close());

  async function startRig(options: Partial<PairOptions> = {}): Promise<Rig> {
    const file = lab.path('disk.raw');
    makeSparseFile(file, sizeBytes);
    const pair = await startPair(lab, {
      disks: [{ name: 'vda', sizeBytes, file }],
      checkpointIntervalSeconds: 1,
      ...options,
    });
    const qemu = await BareQemu.start(lab.processes, lab.directory, 'qemu', file);
    await attach({ lab, pair, qemu, file });
    await pair.waitProtecting();
    return { lab, pair, qemu, file };
  }

  async function attach({ pair, qemu }: Rig): Promise<void> {
    await qemu.mirror(join(pair.source.directory, 'nbd', 'nbd.sock'), `${pair.group}/vda`);
  }

  async function writing(rig: Rig, options: WriterOptions): Promise<SteadyWriter> {
    const writer = await SteadyWriter.start(rig.qemu.guestUri, options);
    await waitFor('writes', () => writer.count > 50);
    writer.reset();
    return writer;
  }

  /** The guard's line in the agent's log. */
  function letGoLine({ pair }: Rig): Record<string, unknown> | undefined {
    const lines = readFileSync(pair.source.process.logFile, 'utf8').trimEnd().split('\n');
    const found = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    return found.findLast(({ event }) => event === 'let-go');
  }

  /** The agent comes back as the service manager would have it, and the disk is attached again. */
  async function comeBack(rig: Rig): Promise<void> {
    await rig.qemu.forgetMirror();
    await rig.pair.source.start();
    await attach(rig);
    const startMs = Date.now();
    await waitFor('a checkpoint after the restart', async () => {
      const { state, newestCheckpoint } = await rig.pair.targetStatus();
      return state === 'protecting' && (newestCheckpoint?.sourceTimeMs ?? 0) > startMs;
    });
  }

  test.each([
    ['many small writes', { writeBytes: 4096, depth: 8 }],
    ['the send buffer is full', { writeBytes: 4 * MiB, depth: 4 }],
    ['one long write, nobody waits for an answer', { writeBytes: 16 * MiB, depth: 1 }],
  ])('a stopped agent: %s', async (_name, options) => {
    const rig = await startRig();
    const { source } = rig.pair;
    const writer = await SteadyWriter.start(rig.qemu.guestUri, options);
    await waitFor('writes', () => writer.count > 5);
    writer.reset();
    process.kill(source.pid, 'SIGSTOP');
    const { signal } = await source.process.exited;
    expect(signal).toBe('SIGKILL');
    const before = writer.count;
    await waitFor('the guest goes on', () => writer.count > before + 5);
    const { slowestMs } = writer;
    console.log(`${_name}: longest stall ${slowestMs.toFixed(0)} ms`);
    expect(slowestMs).toBeLessThan(stallMsMax);

    const line = await waitFor('the guard said why', () => letGoLine(rig));
    expect(line).toMatchObject({ level: 'error', reason: 'silent', groups: ['shop'], record: 'durable' });
    const records = readdirSync(join(source.dataDirectory, 'guard')).filter((name) => name.startsWith('let-go-'));
    expect(records).toHaveLength(1);

    await comeBack(rig);
    await writer.stop();
    await rig.qemu.end();
  });
});
