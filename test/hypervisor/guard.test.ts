/** A hung agent must not hold the guest: QEMU without a guest, a mirror to a real agent, the agent made to hang. */
import { afterEach, beforeEach, describe, expect, jest, test } from '@jest/globals';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BareQemu } from '../support/bare-qemu.js';
import { mountHanging } from '../support/hanging-mount.js';
import { openInspector } from '../support/inspector.js';
import { Laboratory } from '../support/laboratory.js';
import { startPair, type Pair, type PairOptions } from '../support/pair.js';
import { SteadyWriter, type WriterOptions } from '../support/steady-writer.js';
import { makeSparseFile, runNbdcopy } from '../support/tools.js';
import { waitFor } from '../support/wait.js';

const MiB = 1024 * 1024;
const sizeBytes = 64 * MiB;
/** What a guest may wait at most. */
const stallMsMax = 2000;

/** Pid of the agent's guard; throws while there is none. */
async function guardOf(agentPid: number): Promise<number> {
  const children = await readFile(`/proc/${agentPid}/task/${agentPid}/children`, 'utf8');
  for (const pid of children.trim().split(' ').map(Number)) {
    const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (commandLine.endsWith('agent\0guard\0')) return pid;
  }
  throw new Error('the agent has no guard');
}

interface Rig {
  readonly lab: Laboratory;
  readonly pair: Pair;
  readonly qemu: BareQemu;
  readonly file: string;
}

jest.setTimeout(120_000);

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

  async function writing({ qemu }: Rig, options: WriterOptions): Promise<SteadyWriter> {
    const writer = await SteadyWriter.start(qemu.guestUri, options);
    await waitFor('writes', () => writer.count > 5);
    writer.reset();
    return writer;
  }

  async function goesOn(writer: SteadyWriter, what: string): Promise<void> {
    const before = writer.count;
    await waitFor('the guest goes on', () => writer.count > before + 5);
    console.log(`longest stall, ${what}: ${writer.slowestMs.toFixed(0)} ms`);
    expect(writer.slowestMs).toBeLessThan(stallMsMax);
  }

  /** The guard's line in the agent's log. */
  function letGoLine({ pair }: Rig): Record<string, unknown> | undefined {
    const lines = readFileSync(pair.source.process.logFile, 'utf8').split('\n');
    const found = lines
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    return found.findLast(({ event }) => event === 'let-go');
  }

  /** The agent comes back as the service manager would have it, and the disk is attached again. */
  async function comeBack(rig: Rig, writer: SteadyWriter): Promise<void> {
    // A guest that writes faster than a loaded machine syncs has no complete checkpoint, and rightly so.
    writer.ease(100);
    await rig.qemu.forgetMirror();
    await rig.pair.source.start();
    await attach(rig);
    const startMs = Date.now();
    await waitFor(
      'a checkpoint after the restart',
      async () => {
        const { state, newestCheckpoint } = await rig.pair.targetStatus();
        return state === 'protecting' && (newestCheckpoint?.sourceTimeMs ?? 0) > startMs;
      },
      { timeoutMs: 60_000 },
    );
  }

  /** The guest's own disk equals the newest state at the target. */
  async function sameAtTarget({ pair, file }: Rig): Promise<void> {
    await pair.waitProtecting();
    const { client } = pair.source;
    // Refused as long as what the load left is being synced.
    await waitFor('a checkpoint', () => client.createCheckpoint(pair.group, { label: 'same' }), { timeoutMs: 60_000 });
    const view = await pair.target.client.openView(pair.group, { id: 'same', at: { by: 'label', label: 'same' } });
    const copy = lab.path('copy.raw');
    await runNbdcopy(lab.processes, view.disks[0]!.uri, copy);
    await lab.processes.run('cmp', [file, copy]);
    await pair.target.client.closeView(pair.group, 'same', { force: true });
  }

  test.each([
    ['many small writes', { writeBytes: 4096, depth: 8 }],
    ['the send buffer is full', { writeBytes: 4 * MiB, depth: 4 }],
    ['one long write, nobody waits for an answer', { writeBytes: 16 * MiB, depth: 1 }],
  ])('a stopped agent: %s', async (name, options) => {
    const rig = await startRig();
    const { source } = rig.pair;
    const writer = await writing(rig, options);
    process.kill(source.pid, 'SIGSTOP');
    const { signal } = await source.process.exited;
    expect(signal).toBe('SIGKILL');
    await goesOn(writer, name);

    const line = await waitFor('the guard said why', () => letGoLine(rig));
    expect(line).toMatchObject({ level: 'error', reason: 'silent', groups: ['shop'], record: 'durable' });
    const records = readdirSync(join(source.dataDirectory, 'guard')).filter((name) => name.startsWith('let-go-'));
    expect(records).toHaveLength(1);

    await comeBack(rig, writer);
    await writer.stop();
    await rig.qemu.end();
  });

  test('a busy event loop', async () => {
    const rig = await startRig({ sourceSettings: { env: { NODE_OPTIONS: '--inspect=127.0.0.1:0' } } });
    const { source } = rig.pair;
    const writer = await writing(rig, { writeBytes: 65_536, depth: 4 });
    const [, url] = await waitFor('the inspector', () => /listening on (ws:\S+)/.exec(source.process.log(1000)));
    using debuggee = await openInspector(url!);
    debuggee.evaluate('for (;;);');
    expect((await source.process.exited).signal).toBe('SIGKILL');
    await goesOn(writer, 'a busy event loop');
    await waitFor('the guard said why', () => letGoLine(rig));
    await writer.stop();
    await rig.qemu.end();
  });

  test('the agent dies: the guest goes on at once, and the guard is gone', async () => {
    const rig = await startRig();
    const { source } = rig.pair;
    const writer = await writing(rig, { writeBytes: 65_536, depth: 4 });
    const guard = await waitFor('a guard', () => guardOf(source.pid));
    await source.kill();
    await goesOn(writer, 'kill -9 of the agent');
    expect(writer.slowestMs).toBeLessThan(1000);
    await waitFor('the guard is gone', () => !existsSync(`/proc/${guard}`));
    expect(letGoLine(rig)).toBeUndefined();
    await comeBack(rig, writer);
    await writer.stop();
    await rig.qemu.end();
    await source.stop();
  });

  test('the guard dies under load, again and again: not one byte is lost, and the last one still lets go', async () => {
    const rig = await startRig();
    const { source } = rig.pair;
    const writer = await writing(rig, { writeBytes: 65_536, depth: 8 });
    for (let kills = 0; kills < 4; kills++) {
      const guard = await waitFor('a guard', () => guardOf(source.pid));
      const { count } = writer;
      await waitFor('writes under this guard', () => writer.count > count + 200);
      process.kill(guard, kills % 2 === 0 ? 'SIGKILL' : 'SIGSTOP');
      await waitFor('another guard', async () => (await guardOf(source.pid)) !== guard);
    }
    expect(readFileSync(source.process.logFile, 'utf8')).toContain('guard-restarted');
    expect(await rig.qemu.jobs()).toMatchObject([{ ready: true }]);
    expect(writer.slowestMs).toBeLessThan(stallMsMax);
    await writer.stop();
    await sameAtTarget(rig);

    const again = await writing(rig, { writeBytes: 65_536, depth: 4 });
    process.kill(source.pid, 'SIGSTOP');
    await source.process.exited;
    await goesOn(again, 'a stopped agent under its fifth guard');
    await again.stop();
    await rig.qemu.end();
  });

  test('a spool on a file system that never answers: acknowledgements go on, nobody is killed', async () => {
    const mount = await mountHanging(lab);
    try {
      const spool = { bufferBytes: 8 * MiB, spoolBytes: 32 * MiB, spoolDirectory: join(mount.directory, 'spool') };
      const rig = await startRig({ linkProxy: true, sourceSettings: { buffers: spool } });
      const { source } = rig.pair;
      rig.pair.link?.cut();
      process.kill(mount.pid, 'SIGSTOP');
      const writer = await writing(rig, { writeBytes: 65_536, depth: 4 });
      const { count } = writer;
      await waitFor('many times the buffer', () => writer.count > count + 1024);
      await goesOn(writer, 'a spool that never answers');
      expect(source.process.isRunning).toBe(true);
      expect(await rig.qemu.jobs()).toMatchObject([{ ready: true }]);

      process.kill(mount.pid, 'SIGCONT');
      rig.pair.link?.restore();
      await writer.stop();
      await sameAtTarget(rig);
      await rig.qemu.end();
      await rig.pair.stop();
    } finally {
      await mount.end();
    }
  });

  test('an agent that ends while its spool hangs is gone in the end, although exit waits for the thread that writes', async () => {
    const mount = await mountHanging(lab);
    try {
      const buffers = { bufferBytes: 8 * MiB, spoolBytes: 32 * MiB, spoolDirectory: join(mount.directory, 'spool') };
      const rig = await startRig({ linkProxy: true, sourceSettings: { buffers, drainSeconds: 1 } });
      const { source } = rig.pair;
      rig.pair.link?.cut();
      process.kill(mount.pid, 'SIGSTOP');
      const writer = await writing(rig, { writeBytes: 65_536, depth: 4 });
      const { count } = writer;
      await waitFor('more than the buffer', () => writer.count > count + 512);
      source.process.child.kill('SIGTERM');
      await waitFor('the agent is gone', () => !source.process.isRunning, { timeoutMs: 15_000 });
      await goesOn(writer, 'an agent that cannot end');
      // Its clients were gone in order: that counts for no group.
      expect(letGoLine(rig)).toMatchObject({ groups: [], connectionCount: 0 });
      await writer.stop();
      await rig.qemu.end();
    } finally {
      await mount.end();
    }
  });
});
