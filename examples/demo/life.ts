/** The steps of the demo: one application's life at two sites, and what each step cost. */
import { setTimeout as sleep } from 'node:timers/promises';
import { formatBytes, formatSeconds, formatTime } from '../../agent/src/cli/format.js';
import type { Virsh } from '../../agent/src/hypervisor/virsh.js';
import type { Operation, OperationRequest, Progress } from '../../agent/src/service/operation-schemas.js';
import type { AgentHandle } from '../../test/support/agent-handle.js';
import { acknowledgedOnDisk } from '../../test/support/exported-application.js';
import { guestExec } from '../../test/support/guest-agent.js';
import {
  acknowledgedNumbers,
  checkApplication,
  diskFile,
  presentNumbers,
  waitApplication,
} from '../../test/support/two-tier.js';
import { group, pairOf, type TwoTierSites } from '../../test/support/two-tier-sites.js';
import type { Entry } from './ledger.js';
import type { Report, Screen } from './screen.js';

const watchMs = 8000;
const watchEveryMs = 400;
const rubbishMiB = 64;

export class LifeOfTheShop {
  readonly entries: Entry[] = [];
  home = 'Amsterdam';
  /** The agents that send and receive now. */
  private sender: AgentHandle;
  private receiver: AgentHandle;
  private live = '';
  private stepNumber = 1;

  constructor(
    private readonly sites: TwoTierSites,
    private readonly screen: Screen,
  ) {
    this.sender = sites.source;
    this.receiver = sites.target;
  }

  async run(): Promise<void> {
    const watch = new AbortController();
    const watching = this.follow(watch.signal);
    try {
      await this.protect();
      await this.drill();
      await this.move();
      await this.moveBack();
      await this.loseSource();
      await this.rollback();
      await this.corrupt();
      await this.commit();
      await this.reverse();
      await this.moveHome();
    } finally {
      watch.abort();
      await watching;
    }
  }

  private async protect(): Promise<void> {
    this.title('Protect both running VMs as one group, to Frankfurt. They are not stopped.');
    const { sites } = this;
    await sites.protect();
    await this.withSyncs('first sync', () => sites.waitProtecting());
    const untilMs = performance.now() + watchMs;
    while (performance.now() < untilMs) {
      this.screen.show(this.live);
      await sleep(200);
    }
    const { disks, rpoSeconds } = await sites.target.client.group(group);
    const bytes = disks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    this.screen.say(
      `   ${disks.length} disks, ${formatBytes(bytes)}; a loss now would cost ${formatSeconds(rpoSeconds)}.`,
    );
  }

  private async drill(): Promise<void> {
    this.title('Drill an older checkpoint, in a network that leads nowhere.');
    const checkpoints = await this.sites.checkpoints();
    const chosen = checkpoints[Math.floor(checkpoints.length / 2)]!;
    const askedMs = Date.now();
    const operation = await this.operate('drill', 'drill', {
      at: { by: 'id', checkpoint: chosen.id },
      keepMinutes: 30,
    });
    const { virsh } = this.sites.there;
    const pair = pairOf(operation);
    await this.during('the copy commits', () => waitApplication(virsh, pair, 300_000));
    const answersMs = Date.now() - askedMs;
    const { acknowledged, missing } = await this.during('pg_amcheck', () => checkApplication(virsh, pair));
    await this.operate('drill-stop', 'drill-stop', { drill: 'drill' });
    const { rpoSeconds } = await this.sites.target.client.group(group);
    this.screen.say(`   Both VMs booted, pg_amcheck passes; protection went on (RPO ${formatSeconds(rpoSeconds)}).`);
    this.enter('Drill', {
      ...{ rpoSeconds: null, bootMs: bootMsOf(operation), answersMs },
      ...{ acknowledged: acknowledged, kept: acknowledged - missing.length, lostOfCheckpoint: missing.length },
    });
  }

  private async move(): Promise<void> {
    this.title('Maintenance at Amsterdam: move. Its VMs shut down, the last write arrives.');
    const { there } = this.sites;
    const askedMs = Date.now();
    const operation = await this.operate('move', 'move', { timeoutSeconds: 300 });
    const sourceMs = Number(operation.result?.['sourceStopMs']);
    const acknowledged = await this.acknowledgedAtAmsterdam();
    await this.during('the application commits at Frankfurt', () => waitApplication(there.virsh, undefined, 300_000));
    const answersMs = Date.now() - askedMs;
    const { missing } = await this.during('pg_amcheck', () => checkApplication(there.virsh));
    this.enter('Move', {
      ...{ rpoSeconds: 0, bootMs: bootMsOf(operation), sourceMs, answersMs },
      ...{ acknowledged: acknowledged.length, kept: await countKept(there.virsh, acknowledged, askedMs + sourceMs) },
      lostOfCheckpoint: missing.length,
    });
  }

  private async moveBack(): Promise<void> {
    this.title('The maintenance is called off: roll back. Amsterdam starts its VMs again.');
    await this.backToAmsterdam('move-back', 'Rollback of the move');
  }

  private async loseSource(): Promise<void> {
    this.title('Amsterdam loses its power: both VMs and the agent are gone. Fail over.');
    const { sites } = this;
    await sites.source.kill();
    for (const vm of ['client', 'db']) await sites.here.virsh.run(['destroy', vm]);
    const lostMs = Date.now();
    const acknowledged = await this.acknowledgedAtAmsterdam();
    await this.recover('failover', 'Failover', { by: 'latest' }, lostMs, acknowledged);
  }

  private async rollback(): Promise<void> {
    this.title('Amsterdam has power again, and nobody wants the failover: roll it back.');
    await this.backToAmsterdam('rollback', 'Rollback', async () => {
      for (const vm of ['db', 'client']) await this.sites.here.virsh.run(['start', vm]);
      await this.sites.source.start();
    });
  }

  private async backToAmsterdam(id: string, step: string, start = async (): Promise<void> => {}): Promise<void> {
    const { virsh } = this.sites.here;
    const acknowledged = await this.acknowledgedAtAmsterdam();
    const askedMs = Date.now();
    await this.operate(id, 'rollback', { keepHours: 1 });
    await start();
    await this.during('both VMs boot at Amsterdam', () => waitApplication(virsh, undefined, 300_000));
    const answersMs = Date.now() - askedMs;
    await this.withSyncs('compared, and protected again', () => this.sites.waitProtecting());
    const kept = await countKept(virsh, acknowledged);
    this.screen.say('   What Frankfurt had committed meanwhile stays there, as a named view.');
    this.enter(step, { answersMs, acknowledged: acknowledged.length, kept });
  }

  /** While no VM writes there. */
  private acknowledgedAtAmsterdam(): Promise<number[]> {
    const { lab } = this.sites;
    return acknowledgedOnDisk(lab.processes, lab.path('vm-disks', 'client-vdb.raw'));
  }

  private async corrupt(): Promise<void> {
    this.title(`Somebody writes ${rubbishMiB} MiB of rubbish over the database. It is replicated.`);
    const { sites } = this;
    await sites.waitProtecting();
    const acknowledged = await acknowledgedNumbers(sites.here.virsh, 'client');
    const corruptedMs = Date.now();
    const rubbish = ['if=/dev/urandom', 'of=/dev/vdb', 'bs=1M', `count=${rubbishMiB}`, 'oflag=direct'];
    await this.during('rubbish', () => guestExec(sites.here.virsh, 'db', ['dd', ...rubbish], { timeoutMs: 300_000 }));
    await this.during('the rubbish reaches Frankfurt', () => sites.waitProtecting());
    this.screen.say(`   Fail over to the last moment before it, ${formatTime(corruptedMs)}.`);
    await this.recover('undo', 'Before the rubbish', { by: 'time', timeMs: corruptedMs }, corruptedMs, acknowledged);
  }

  private async commit(): Promise<void> {
    this.title('Commit at Frankfurt: the disks become files of its own, while the VMs run.');
    const { virsh } = this.sites.there;
    const acknowledged = await acknowledgedNumbers(virsh, 'client');
    await this.operate('commit', 'commit', {});
    const answersMs = await this.during('a commit behind it', () => waitApplication(virsh));
    this.home = 'Frankfurt';
    this.enter('Commit', { answersMs, acknowledged: acknowledged.length, kept: await countKept(virsh, acknowledged) });
  }

  private async reverse(): Promise<void> {
    this.title('Amsterdam is well again: reverse. Its old disks are the start, only what differs travels.');
    const { sites } = this;
    const acknowledged = await acknowledgedNumbers(sites.there.virsh, 'client');
    // The VMs at Amsterdam are isolated and still run, with the rubbish.
    await this.operate('reverse', 'reverse', { discardSource: true });
    [this.sender, this.receiver] = [this.receiver, this.sender];
    await this.withSyncs('protected back', () => sites.waitProtecting(this.receiver));
    const kept = await countKept(sites.there.virsh, acknowledged);
    this.enter('Reverse', { acknowledged: acknowledged.length, kept });
  }

  private async moveHome(): Promise<void> {
    this.title('Home again: move. The VMs at Frankfurt shut down, the last write arrives at Amsterdam.');
    const { here, there, lab } = this.sites;
    const disk = await diskFile(there.virsh, 'client', 'vdb');
    const askedMs = Date.now();
    const operation = await this.operate('home', 'move', { timeoutSeconds: 300 });
    const sourceMs = Number(operation.result?.['sourceStopMs']);
    const acknowledged = await acknowledgedOnDisk(lab.processes, disk);
    await this.during('the application commits at Amsterdam', () => waitApplication(here.virsh, undefined, 300_000));
    const answersMs = Date.now() - askedMs;
    const { missing } = await this.during('pg_amcheck', () => checkApplication(here.virsh));
    this.enter('Move home', {
      ...{ rpoSeconds: 0, bootMs: bootMsOf(operation), sourceMs, answersMs },
      ...{ acknowledged: acknowledged.length, kept: await countKept(here.virsh, acknowledged, askedMs + sourceMs) },
      lostOfCheckpoint: missing.length,
    });
    await this.operate('settle', 'commit', {});
    this.home = 'Amsterdam';
  }

  /** A failover, and what it found of the transactions that the source had acknowledged. */
  private async recover(
    id: string,
    step: string,
    at: object,
    lostMs: number,
    acknowledged: readonly number[],
  ): Promise<void> {
    const askedMs = Date.now();
    const operation = await this.operate(id, 'failover', { at, sourceMayBeAlive: true });
    const { virsh } = this.sites.there;
    await this.during('the application commits at Frankfurt', () => waitApplication(virsh, undefined, 300_000));
    const answersMs = Date.now() - askedMs;
    const { missing } = await this.during('pg_amcheck', () => checkApplication(virsh));
    const { sourceTimeMs } = (await this.sites.checkpoints()).find(
      (each) => each.id === operation.result?.['checkpoint'],
    )!;
    this.enter(step, {
      ...{ rpoSeconds: Math.max(0, lostMs - sourceTimeMs) / 1000, bootMs: bootMsOf(operation), answersMs },
      ...{ acknowledged: acknowledged.length, kept: await countKept(virsh, acknowledged, askedMs) },
      ...{ lostOfCheckpoint: missing.length, mayLoseLater: true },
    });
  }

  private title(text: string): void {
    this.screen.say(`\n${++this.stepNumber}  ${text}`);
  }

  private enter(step: string, entry: Partial<Entry> & Pick<Entry, 'acknowledged' | 'kept'>): void {
    const whole: Entry = {
      ...{ step, rpoSeconds: null, bootMs: null, sourceMs: null, answersMs: null },
      ...{ lostOfCheckpoint: 0, mayLoseLater: false },
      ...entry,
    };
    this.entries.push(whole);
    this.screen.say(`   ${whole.acknowledged} transactions acknowledged, ${whole.kept} kept.`);
  }

  private during<Value>(label: string, work: (report: Report) => Promise<Value>): Promise<Value> {
    return this.screen.during(label, work, () => this.live);
  }

  /** With a bar while the sender syncs. */
  private async withSyncs<Value>(label: string, work: () => Promise<Value>): Promise<Value> {
    return this.during(label, async (report) => {
      const done = new AbortController();
      const telling = every(watchEveryMs, done.signal, async () => {
        const { syncs } = await this.sender.client.group(group);
        report(syncs.length === 0 ? null : sumOf(syncs));
      });
      try {
        return await work();
      } finally {
        done.abort();
        await telling;
      }
    });
  }

  /** Keeps the live line true; an agent that is down is no reason to stop. */
  private follow(signal: AbortSignal): Promise<void> {
    return every(watchEveryMs, signal, async () => {
      this.live = '';
      const { rpoSeconds, journal, state } = await this.receiver.client.group(group);
      if (!['protecting', 'resyncing', 'disconnected'].includes(state)) return;
      const kept = journal === null ? '' : `, ${journal.checkpointCount} checkpoints in ${formatBytes(journal.bytes)}`;
      this.live = `RPO ${formatSeconds(rpoSeconds)}${kept}`;
    });
  }

  private operate(
    id: string,
    kind: OperationRequest['kind'],
    args: object,
    at: AgentHandle = this.receiver,
  ): Promise<Operation> {
    return this.during(kind, (report) =>
      this.sites.run(id, kind, args, { at, onChange: ({ progress, step }) => report(progress, step) }),
    );
  }
}

/** Until the signal; a look that fails is left out. */
async function every(ms: number, signal: AbortSignal, look: () => Promise<void>): Promise<void> {
  while (!signal.aborted) {
    await look().catch(() => undefined);
    await sleep(ms, undefined, { signal }).catch(() => undefined);
  }
}

function sumOf(parts: readonly Progress[]): Progress {
  const sum = (of: (part: Progress) => number): number => parts.reduce((total, part) => total + of(part), 0);
  return {
    doneBytes: sum(({ doneBytes }) => doneBytes),
    totalBytes: sum(({ totalBytes }) => totalBytes),
    bytesPerSecond: sum(({ bytesPerSecond }) => bytesPerSecond),
    secondsLeft: parts.some(({ secondsLeft }) => secondsLeft === null)
      ? null
      : Math.max(...parts.map(({ secondsLeft }) => secondsLeft ?? 0)),
  };
}

function bootMsOf({ result }: Operation): number | null {
  const ms = result?.['firstBootMs'];
  return typeof ms === 'number' ? ms : null;
}

/** How many of the numbers are in the database; with `beforeMs` only what was there before. */
async function countKept(virsh: Virsh, acknowledged: readonly number[], beforeMs?: number): Promise<number> {
  const present = new Set(await presentNumbers(virsh, 'db', beforeMs));
  return acknowledged.filter((number) => present.has(number)).length;
}
