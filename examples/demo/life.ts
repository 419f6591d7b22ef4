/** The steps of the demo: one application's way to the other site and home, and what each step cost. */
import { setTimeout as sleep } from 'node:timers/promises';
import { applicationText } from '../../agent/src/cli/application-text.js';
import { formatBytes, formatSeconds } from '../../agent/src/cli/format.js';
import type { Virsh } from '../../agent/src/hypervisor/virsh.js';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import type { Operation } from '../../agent/src/service/operation-schemas.js';
import type { RecoveryRequest } from '../../components/index.js';
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
import { group, type TwoTierSites } from '../../test/support/two-tier-sites.js';
import { waitFor } from '../../test/support/wait.js';
import type { Entry } from './ledger.js';
import type { Screen } from './screen.js';
import type { DemoStack } from './stack.js';

const watchMs = 5000;
const answersMs = 300_000;
/** It is due every minute; a first one may be left out. */
const scheduleMs = 150_000;
const mistake = 'truncate numbers';

export class LifeOfTheShop {
  readonly entries: Entry[] = [];
  private stepNumber = 1;

  constructor(
    private readonly sites: TwoTierSites,
    private readonly stack: DemoStack,
    private readonly screen: Screen,
  ) {}

  async run(): Promise<void> {
    await this.protect();
    await this.foresee();
    await this.failOver();
    await this.commit();
    await this.reverse();
    await this.moveHome();
    await this.protectAgain();
    const good = await this.awaitSchedule();
    await this.fallBack(good);
  }

  private async protect(): Promise<void> {
    this.title('Declare both running VMs as one protected application. They are not stopped.');
    const { sites, stack, screen } = this;
    await stack.up();
    await screen.during('a checkpoint of both VMs', () => sites.waitProtecting());
    const untilMs = performance.now() + watchMs;
    while (performance.now() < untilMs) {
      const { rpoSeconds, journal } = await sites.target.client.group(group);
      const kept = journal === null ? '' : `, ${journal.checkpointCount} checkpoints in ${formatBytes(journal.bytes)}`;
      screen.show(`RPO ${formatSeconds(rpoSeconds)}${kept}`);
      await sleep(200);
    }
    const { disks, rpoSeconds } = await sites.target.client.group(group);
    const bytes = disks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    screen.say(`   ${disks.length} disks, ${formatBytes(bytes)}; a loss now would cost ${formatSeconds(rpoSeconds)}.`);
  }

  private async foresee(): Promise<void> {
    this.title('What would a failover cost? The request is made, and only looked at.');
    await this.stack.ask({ request: 'power-loss', action: 'failover', sourceMayBeAlive: true });
    await this.stack.preview();
  }

  private async failOver(): Promise<void> {
    this.title('Amsterdam loses its power: both VMs and its agent are gone. Fail over.');
    const { sites, screen } = this;
    const { here, there, lab } = sites;
    const lostMs = Date.now();
    for (const vm of ['db', 'client']) process.kill(here.qemuPid(vm), 'SIGKILL');
    await sites.source.kill();
    const acknowledged = await acknowledgedOnDisk(lab.processes, lab.path('vm-disks', 'client-vdb.raw'));
    const { operation, ...times } = await this.upUntilAnswered('power-loss', sites.target, there.virsh);
    await this.tellAddress(there.virsh);
    const { missing } = await screen.during('pg_amcheck', () => checkApplication(there.virsh));
    const { sourceTimeMs } = (await sites.checkpoints()).find(({ id }) => id === operation.result?.['checkpoint'])!;
    this.enter('Failover', {
      ...{ rpoSeconds: Math.max(0, lostMs - sourceTimeMs) / 1000, ...times },
      acknowledged: acknowledged.length,
      kept: await countKept(there.virsh, acknowledged, times.askedMs),
      ...{ lostOfCheckpoint: missing.length, mayLoseLater: true },
    });
  }

  private async commit(): Promise<void> {
    this.title('Frankfurt is good: commit. Its disks become files of its own, while the VMs run.');
    const { virsh } = this.sites.there;
    const acknowledged = await acknowledgedNumbers(virsh, 'client');
    await this.ask({ request: 'stay', action: 'commit' });
    const answersMs = await this.screen.during('a transaction behind it', () => waitApplication(virsh));
    this.enter('Commit', { answersMs, acknowledged: acknowledged.length, kept: await countKept(virsh, acknowledged) });
  }

  private async reverse(): Promise<void> {
    this.title('Amsterdam has power again: protect back. Of its old disks only what differs travels.');
    const { sites, screen } = this;
    const { virsh } = sites.there;
    const acknowledged = await acknowledgedNumbers(virsh, 'client');
    await screen.during('the agent starts', () => sites.source.start());
    await this.ask({ request: 'protect-back', action: 'reverse' });
    await screen.during('a checkpoint of both VMs', () => sites.waitProtecting(sites.source));
    this.enter('Reverse', { acknowledged: acknowledged.length, kept: await countKept(virsh, acknowledged) });
  }

  private async moveHome(): Promise<void> {
    this.title('Home: move. The VMs at Frankfurt shut down, their last writes arrive at Amsterdam.');
    const { sites, stack, screen } = this;
    const { here, there, lab } = sites;
    const disk = await diskFile(there.virsh, 'client', 'vdb');
    await stack.ask({ request: 'home', action: 'move', shutdownSeconds: 300 });
    const { operation, ...times } = await this.upUntilAnswered('home', sites.source, here.virsh);
    await this.tellAddress(here.virsh);
    const sourceMs = Number(operation.result?.['sourceStopMs']);
    const acknowledged = await acknowledgedOnDisk(lab.processes, disk);
    const { missing } = await screen.during('pg_amcheck', () => checkApplication(here.virsh));
    this.enter('Move home', {
      ...{ rpoSeconds: 0, sourceMs, ...times, acknowledged: acknowledged.length },
      kept: await countKept(here.virsh, acknowledged, times.askedMs + sourceMs),
      lostOfCheckpoint: missing.length,
    });
  }

  private async protectAgain(): Promise<void> {
    this.title('As it was: commit at Amsterdam, and protect to Frankfurt again.');
    const { sites, screen } = this;
    const { virsh } = sites.here;
    const acknowledged = await acknowledgedNumbers(virsh, 'client');
    await this.ask({ request: 'settle', action: 'commit' });
    await this.ask({ request: 'protect-again', action: 'reverse' });
    await screen.during('a checkpoint of both VMs', () => sites.waitProtecting());
    this.enter('Protected again', { acknowledged: acknowledged.length, kept: await countKept(virsh, acknowledged) });
  }

  private async awaitSchedule(): Promise<Checkpoint> {
    this.title('Every minute both VMs are held for a moment, and marked. What did the last one prove?');
    const { sites, screen } = this;
    const sinceMs = Date.now();
    const found = async (): Promise<Checkpoint | undefined> => {
      const { checkpoints } = await sites.target.client.checkpoints(group, { kind: 'application', limit: 1 });
      return checkpoints.find(({ sourceTimeMs, complete }) => complete && sourceTimeMs > sinceMs);
    };
    const newest = await screen.during(
      'the next application checkpoint',
      () => waitFor('an application checkpoint on schedule', found, { timeoutMs: scheduleMs, everyMs: 200 }),
      () => `due in ${60 - (Math.floor(Date.now() / 1000) % 60)} s`,
    );
    screen.command(`tidemark checkpoint show ${group}`);
    for (const line of applicationText(newest).trimEnd().split('\n')) screen.say(line);
    return newest;
  }

  private async fallBack({ id, sourceTimeMs }: Checkpoint): Promise<void> {
    this.title('A mistake: somebody empties the table, and it is replicated like any other write.');
    const { sites, stack, screen } = this;
    const { here, there } = sites;
    const acknowledged = await acknowledgedNumbers(here.virsh, 'client');
    const mistakeMs = Date.now();
    const psql = ['/opt/postgresql/psql', '-h', '/run', '-U', 'postgres', '-XAtc', mistake, 'postgres'];
    await guestExec(here.virsh, 'db', psql);
    screen.command(`psql -c "${mistake}"`);
    await screen.during('the mistake is at Frankfurt, too', () => sites.waitProtecting());
    screen.say(
      `   ${await countKept(here.virsh, acknowledged)} of ${acknowledged.length} transactions are left. Fall back to before it.`,
    );
    await stack.ask({ request: 'undo', action: 'failover', checkpoint: id, sourceMayBeAlive: true });
    await stack.preview();
    const { operation, ...times } = await this.upUntilAnswered('undo', sites.target, there.virsh);
    if (operation.result?.['checkpoint'] !== id) throw new Error('another checkpoint was recovered than asked for');
    await this.tellAddress(there.virsh);
    const { missing } = await screen.during('pg_amcheck', () => checkApplication(there.virsh));
    this.enter('Fall back', {
      ...{ rpoSeconds: (mistakeMs - sourceTimeMs) / 1000, ...times },
      acknowledged: acknowledged.length,
      kept: await countKept(there.virsh, acknowledged, mistakeMs),
      ...{ lostOfCheckpoint: missing.length, mayLoseLater: true },
    });
  }

  /** The guest has the address that the stack's output says. */
  private async tellAddress(virsh: Virsh): Promise<void> {
    const address = (await this.stack.outputs()).addresses['client']?.[0] ?? 'none';
    const inGuest = await guestExec(virsh, 'client', ['ip', '-brief', 'address', 'show', 'dev', 'eth0']);
    if (!inGuest.includes(` ${address}/`)) throw new Error(`the client has not ${address}: ${inGuest}`);
    this.screen.say(`   The application answers, its client at ${address}.`);
  }

  private async ask(request: RecoveryRequest): Promise<void> {
    await this.stack.ask(request);
    await this.stack.up();
  }

  /** Runs the update while the application is asked for a transaction at the site that it goes to. */
  private async upUntilAnswered(
    request: string,
    at: AgentHandle,
    virsh: Virsh,
  ): Promise<{ operation: Operation; askedMs: number; bootMs: number; answersMs: number }> {
    const askedMs = Date.now();
    const answered = waitApplication(virsh, undefined, answersMs);
    await Promise.all([this.stack.up(), answered]);
    const operation = await at.client.operation(`${group}:${request}`);
    return { operation, askedMs, bootMs: Number(operation.result?.['firstBootMs']), answersMs: await answered };
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
}

/** How many of the numbers are in the database; with `beforeMs` only what was there before. */
async function countKept(virsh: Virsh, acknowledged: readonly number[], beforeMs?: number): Promise<number> {
  const present = new Set(await presentNumbers(virsh, 'db', beforeMs));
  return acknowledged.filter((number) => present.has(number)).length;
}
