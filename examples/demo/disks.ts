/**
 * make demo ARGS=--disks, and what it falls back to where no VM can run (it needs no root): two real agents on this machine, a guest that writes two disks, and one bad day: the link is cut, each agent
 * is killed, the application's disk is overwritten with rubbish, the source site is lost. Then the group is recovered to
 * the last checkpoint before the rubbish, and every byte is compared with what the guest was told was written.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { formatBytes, formatSeconds, formatTable, formatTime } from '../../agent/src/cli/format.js';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import { SimRandom } from '../../test/sim/world/sim-random.js';
import { StampedDisk, WallCounter } from '../../test/e2e/stamped-disk.js';
import { checkCheckpoint, checkImages, listCheckpoints, readDisk } from '../../test/e2e/verify-checkpoints.js';
import { Laboratory } from '../../test/support/laboratory.js';
import { startPair, type Pair } from '../../test/support/pair.js';
import { makeSparseFile } from '../../test/support/tools.js';
import { waitFor } from '../../test/support/wait.js';
import { Screen } from './screen.js';

const MiB = 1024 * 1024;
const group = 'shop';
const diskSizes = { database: 32 * MiB, log: 16 * MiB };

class Demo {
  readonly line = new Screen();
  readonly report: [string, string][] = [];
  private readonly watch = new AbortController();
  private watching: Promise<void> = Promise.resolve();

  constructor(
    readonly pair: Pair,
    readonly disks: readonly StampedDisk[],
  ) {}

  static async prepare(lab: Laboratory): Promise<Demo> {
    const counter = new WallCounter();
    const pair = await startPair(lab, {
      group,
      checkpointIntervalSeconds: 1,
      linkProxy: true,
      disks: Object.entries(diskSizes).map(([name, sizeBytes]) => ({
        name,
        sizeBytes,
        kind: 'in-path',
        file: makeSparseFile(lab.path(`${name}.raw`), sizeBytes),
      })),
      sourceSettings: { drainSeconds: 2 },
    });
    const disks = await Promise.all(
      Object.entries(diskSizes).map(
        async ([name, sizeBytes], index) =>
          new StampedDisk(name, sizeBytes, await pair.exportUri(name), new SimRandom(index + 1), counter),
      ),
    );
    return new Demo(pair, disks);
  }

  async run(): Promise<void> {
    const { line, disks } = this;
    try {
      line.say('1  Protect: two disks of the group "shop", a checkpoint every second.');
      this.watching = this.follow();
      await this.pair.waitProtecting({ timeoutMs: 20_000 });
      for (const disk of disks) disk.start({ pauseMs: 8 });
      await sleep(4000);
      await this.cutLink();
      await this.killSource();
      await this.killTarget();
      const corruptedMs = await this.corrupt();
      const chosen = await this.failover(corruptedMs);
      await this.verify(chosen);
    } finally {
      for (const disk of disks) await disk.stop();
      this.watch.abort();
      await this.watching;
      line.clear();
    }
  }

  private async cutLink(): Promise<void> {
    const { line, pair } = this;
    line.say('2  Cut the link for four seconds. The guest must not notice.');
    this.measureGuest();
    pair.link?.cut();
    await sleep(4000);
    const rpo = (await pair.targetStatus()).rpoSeconds;
    pair.link?.restore();
    const startedMs = performance.now();
    await this.waitRpo();
    this.report.push([
      'Link cut for 4 s',
      `data loss would have been ${formatSeconds(rpo)} then; caught up ${since(startedMs)} after; ` +
        `the guest's slowest write took ${Math.round(this.slowestMs())} ms`,
    ]);
  }

  private async killSource(): Promise<void> {
    const { line, pair } = this;
    line.say('3  kill -9 the source agent, and start it again.');
    const startedMs = performance.now();
    const before = await this.newest();
    await pair.source.kill();
    await pair.source.start();
    const upAfter = since(startedMs);
    await this.waitNewer(before);
    this.report.push([
      'Source agent killed',
      `up after ${upAfter}; disks compared with the replica, next checkpoint after ${since(startedMs)}`,
    ]);
  }

  private async killTarget(): Promise<void> {
    const { line, pair } = this;
    line.say('4  kill -9 the target agent, and start it again.');
    const before = await listCheckpoints(pair.target.client, group);
    this.measureGuest();
    const startedMs = performance.now();
    await pair.target.kill();
    await pair.target.start();
    const upAfter = since(startedMs);
    await this.waitNewer(before[0]);
    const after = new Set((await listCheckpoints(pair.target.client, group)).map(({ id }) => id));
    const kept = before.filter(({ id }) => after.has(id)).length;
    this.report.push([
      'Target agent killed',
      `up after ${upAfter}; ${kept} of ${before.length} checkpoints still there; ` +
        `the guest's slowest write took ${Math.round(this.slowestMs())} ms`,
    ]);
    if (kept !== before.length) throw new Error('checkpoints were lost');
  }

  /** Returns the wall time just before the first bad write. */
  private async corrupt(): Promise<number> {
    const { line, pair, disks } = this;
    await sleep(1500);
    line.say('5  The accident: rubbish over the whole database disk, replicated like any write.');
    const database = disks[0]!;
    const corruptedMs = Date.now();
    const client = await database.connect();
    for (let at = 0; at < database.sizeBytes; at += MiB) await database.write(client, at, MiB);
    await client.close();
    await this.waitNewer(await this.newest());
    await pair.waitDrained();
    this.report.push([
      'Database overwritten',
      `${formatBytes(database.sizeBytes)} at ${formatTime(corruptedMs)}, in every later checkpoint`,
    ]);
    return corruptedMs;
  }

  private async failover(corruptedMs: number): Promise<Checkpoint> {
    const { line, pair, disks } = this;
    line.say('6  The source site is lost too. Fail over to the last checkpoint before the accident.');
    for (const disk of disks) await disk.stop();
    await pair.source.kill();
    const startedMs = performance.now();
    const at = { by: 'time', timeMs: corruptedMs } as const;
    const chosen = await pair.target.client.resolveCheckpoint(group, at);
    await pair.target.client.startOperation('demo-failover', {
      kind: 'failover',
      group,
      arguments: { at, sourceMayBeAlive: true },
    });
    const ended = await pair.target.client.waitOperation('demo-failover');
    if (ended.state !== 'succeeded') throw new Error(`failover: ${ended.error?.message ?? ended.state}`);
    this.report.push([
      'Failover',
      `to checkpoint ${chosen.id}, ${formatSeconds((corruptedMs - chosen.sourceTimeMs) / 1000)} ` +
        `before the accident; disks served after ${since(startedMs)}`,
    ]);
    return chosen;
  }

  private async verify(chosen: Checkpoint): Promise<void> {
    const { line, pair, disks } = this;
    line.say('7  Compare what is served now, and every checkpoint kept, with what the guest wrote.');
    const [view] = (await pair.target.client.views(group)).filter(({ purpose }) => purpose === 'production');
    if (view === undefined) throw new Error('there is no production view');
    const images = new Map<StampedDisk, Uint8Array>();
    for (const disk of disks) {
      const uri = view.disks.find(({ name }) => name === disk.name)!.uri;
      images.set(disk, await readDisk(uri, disk.sizeBytes));
    }
    const wrong = checkImages('recovered disks', images, chosen.sourceTimeMs * 1000);
    if (wrong !== undefined) throw new Error(wrong);
    const bytes = disks.reduce((sum, disk) => sum + disk.sizeBytes, 0);
    this.report.push(['Recovered disks', `${formatBytes(bytes)} compared, 0 sectors wrong; read and write, over NBD`]);
    const all = await listCheckpoints(pair.target.client, group);
    for (const checkpoint of all) {
      const bad = await checkCheckpoint(pair.target.client, group, checkpoint, disks);
      if (bad !== undefined) throw new Error(bad);
    }
    this.report.push(['All checkpoints', `${all.length} kept, each opened and compared, 0 sectors wrong`]);
  }

  /** The live line, five times a second; a dead agent is no reason to stop. */
  private async follow(): Promise<void> {
    let before = { ms: performance.now(), count: 0 };
    const { signal } = this.watch;
    while (!signal.aborted) {
      await sleep(200, undefined, { signal }).catch(() => undefined);
      const status = await this.pair.targetStatus().catch(() => undefined);
      const link = (await this.pair.sourceStatus().catch(() => undefined))?.links[0];
      const now = { ms: performance.now(), count: this.disks.reduce((sum, disk) => sum + disk.acknowledgedCount, 0) };
      const writesPerSecond = ((now.count - before.count) * 1000) / (now.ms - before.ms);
      before = now;
      if (signal.aborted) return;
      const journalBytes = status?.journal?.bytes;
      this.line.show(
        [
          `${Math.round(writesPerSecond)} writes/s`.padEnd(14),
          `RPO ${formatSeconds(status?.rpoSeconds ?? null).padEnd(8)}`,
          `journal ${(journalBytes === undefined ? '-' : formatBytes(journalBytes)).padEnd(9)}`,
          link === undefined ? 'source down,' : `stage ${link.stage},`,
          status?.state ?? 'target down',
        ].join(' '),
      );
    }
  }

  private newest(): Promise<Checkpoint | undefined> {
    return this.pair.targetStatus().then(({ newestCheckpoint }) => newestCheckpoint ?? undefined);
  }

  private async waitNewer(than: Pick<Checkpoint, 'id'> | undefined): Promise<void> {
    const newer = async (): Promise<boolean> => ((await this.newest())?.id ?? '') > (than?.id ?? '');
    await waitFor('a new complete checkpoint', newer, { timeoutMs: 20_000, everyMs: 50 });
  }

  private async waitRpo(): Promise<void> {
    const small = async (): Promise<boolean> => ((await this.pair.targetStatus()).rpoSeconds ?? Infinity) < 1.5;
    await waitFor('the target caught up', small, { timeoutMs: 40_000, everyMs: 50 });
  }

  private measureGuest(): void {
    for (const disk of this.disks) disk.slowestMs = 0;
  }

  private slowestMs(): number {
    return Math.max(...this.disks.map(({ slowestMs }) => slowestMs));
  }
}

function since(startedMs: number): string {
  return formatSeconds((performance.now() - startedMs) / 1000);
}

/** The table, its texts broken so that no line is longer than 80 columns. */
function summary(rows: readonly (readonly [string, string])[]): string {
  const nameWidth = Math.max(...rows.map(([name]) => name.length));
  const lines: [string, string][] = [];
  for (const [name, text] of rows) {
    let first = name;
    let rest = '';
    for (const word of text.split(' ')) {
      if (rest !== '' && rest.length + 1 + word.length > 78 - nameWidth) {
        lines.push([first, rest]);
        [first, rest] = ['', word];
      } else rest = rest === '' ? word : `${rest} ${word}`;
    }
    lines.push([first, rest]);
  }
  return formatTable(['What happened', 'What came of it'], lines);
}

/** Resolves with the exit code. */
export async function runDisksDemo(): Promise<number> {
  const startedMs = performance.now();
  await using lab = await Laboratory.open();
  // At its exit the laboratory ends what it started and removes its files.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(130));
  process.stdout.write('Tidemark: two agents on this machine, a guest that writes, and one bad day.\n\n');
  const demo = await Demo.prepare(lab);
  try {
    await demo.run();
  } catch (error) {
    process.stdout.write(`\nThe demo failed: ${(error as Error).message}\n`);
    for (const agent of [demo.pair.source, demo.pair.target])
      process.stdout.write(`\nlast lines of ${agent.name}:\n${agent.process.log(10)}\n`);
    return 1;
  }
  const count = demo.disks.reduce((sum, disk) => sum + disk.acknowledgedCount, 0);
  const bytes = demo.disks.reduce((sum, disk) => sum + disk.acknowledgedBytes, 0);
  const writes = `${count} acknowledged, ${formatBytes(bytes)}`;
  process.stdout.write(`\n${summary([['Writes of the guest', writes], ...demo.report])}`);
  process.stdout.write(`\nDone in ${since(startedMs)}. Everything that was started has ended.\n`);
  return 0;
}
