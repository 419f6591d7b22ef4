/** kill -9 of the agent, of libvirtd and of QEMU between every two steps of a commit; acknowledged writes are counted. */
import { cpSync, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Operation } from '../../agent/src/service/operation-schemas.js';
import { Laboratory } from '../support/laboratory.js';
import { VirshGate, type GateRule } from '../support/virsh-gate.js';
import { waitFor } from '../support/wait.js';
import { startRecoveryRig, vmUuid, type RecoveryRig } from './recovery-rig.js';

type Victim = 'agent' | 'libvirtd' | 'qemu';
const everyone: readonly Victim[] = ['agent', 'libvirtd', 'qemu'];

/** Where a commit is stopped. Between two of them virsh is not called, or nothing is changed. */
const boundaries: Readonly<Record<string, { readonly rule: GateRule; readonly victims?: readonly Victim[] }>> = {
  'the first disk is copied': { rule: { when: 'after', call: 'blockcopy .* vda' } },
  'all copies are ready': { rule: { when: 'after', call: 'domstate', behind: 'blockjob .* vdb --info' } },
  'the point of no return is passed': { rule: { when: 'before', call: '', record: '"state":"committing"' } },
  'the first disk counts as a file': { rule: { when: 'before', call: 'blockjob .* vda --pivot' } },
  'the first disk is moved': { rule: { when: 'after', call: 'blockjob .* vda --pivot' } },
  'the second disk counts as a file': { rule: { when: 'before', call: 'blockjob .* vdb --pivot' } },
  'both disks are moved': { rule: { when: 'after', call: 'blockjob .* vdb --pivot' } },
  'the definition is saved': { rule: { when: 'after', call: 'define ' } },
  'all is proven': { rule: { when: 'before', call: 'metadata .* --remove' }, victims: ['agent'] },
  "the VM is its owner's": { rule: { when: 'after', call: 'metadata .* --remove' }, victims: ['agent'] },
};

/** A commit mostly waits; so many go side by side, each with an agent, a libvirt and a gate of its own. */
const laneCount = 3;

/** Where the cells of one queue are run, one after the other. */
class Lane implements AsyncDisposable {
  private constructor(
    private readonly owned: AsyncDisposableStack,
    private readonly rig: RecoveryRig,
    private readonly gate: VirshGate,
    private readonly template: string,
  ) {}

  static async open(): Promise<Lane> {
    const stack = new AsyncDisposableStack();
    try {
      const gateLab = stack.use(await Laboratory.open());
      let dataDirectory = '';
      const gate = new VirshGate(gateLab.path('gate', 'x', '..'), () => join(dataDirectory, 'groups', 'shop'));
      const rig = stack.use(
        await startRecoveryRig({ env: gate.env, countOnBoth: true, recovery: { uncommittedHours: 0.001 } }),
      );
      ({ dataDirectory } = rig.target);
      const lane = new Lane(stack, rig, gate, rig.lab.path('template'));
      await lane.makeTemplate();
      return lane;
    } catch (error) {
      await stack.disposeAsync();
      throw error;
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.owned.disposeAsync();
  }

  private async makeTemplate(): Promise<void> {
    const { rig } = this;
    await rig.source.close();
    const failover = await rig.run('failover', {
      kind: 'failover',
      arguments: { at: { by: 'latest' }, sourceMayBeAlive: true },
    });
    expect(failover.state).toBe('succeeded');
    await this.counts();
    await this.forget();
    await rig.target.stop();
    cpSync(rig.target.dataDirectory, this.template, { recursive: true });
  }

  private domain(...flags: string[]): Promise<string> {
    return this.rig.libvirt.virsh.run(['dumpxml', vmUuid, ...flags]);
  }

  /** What the guest said in all its lives. */
  private async said(): Promise<string> {
    return readFileSync(/<source path='([^']*serial0.log)'/.exec(await this.domain('--inactive'))![1]!, 'utf8');
  }

  private async counts(): Promise<void> {
    const before = (await this.said()).length;
    await waitFor('the guest counts', async () => (await this.said()).length > before + 2, { timeoutMs: 60_000 });
  }

  private async forget(): Promise<void> {
    for (const args of [
      ['destroy', vmUuid],
      ['undefine', vmUuid],
    ])
      await this.rig.libvirt.virsh.run(args).catch(() => undefined);
  }

  /** An uncommitted failover whose VM runs, as it was when the template was made. */
  private async failedOver(): Promise<void> {
    const { target, run } = this.rig;
    rmSync(target.dataDirectory, { recursive: true, force: true });
    cpSync(this.template, target.dataDirectory, { recursive: true });
    await target.start();
    expect((await run('boot', { kind: 'boot', arguments: {} })).state).toBe('succeeded');
    const { alerts } = await target.client.group('shop');
    expect(alerts.map(({ code }) => code)).toContain('failover-uncommitted');
    await this.counts();
  }

  private async strike(victim: Victim): Promise<void> {
    const { gate, rig } = this;
    if (victim === 'agent') {
      await rig.target.kill();
      gate.open();
      await rig.target.start();
    } else if (victim === 'libvirtd') {
      await rig.libvirt.killDaemon();
      gate.open();
      await gate.failed();
      await rig.libvirt.startDaemon();
    } else {
      process.kill(rig.libvirt.qemuPid('count'), 'SIGKILL');
      gate.open();
    }
  }

  private ended(id: string): Promise<Operation> {
    const { client } = this.rig.target;
    return client
      .waitOperation(id, () => undefined, AbortSignal.timeout(60_000))
      .catch(async (error: unknown) => {
        const { operations } = await client.operations({ group: 'shop' });
        const found = operations.find((operation) => operation.id === id);
        if (found?.state === 'failed') return found;
        throw error;
      });
  }

  /** One kill, and what must hold behind it. */
  async cell(victim: Victim, name: string): Promise<void> {
    const { gate, rig } = this;
    try {
      await this.failedOver();
      gate.arm(boundaries[name]!.rule);
      await rig.target.client.startOperation('commit', { kind: 'commit', group: 'shop', arguments: {} });
      await gate.held(name);
      await this.strike(victim);
      let done = await this.ended('commit');
      if (done.state === 'failed') {
        // Before the point of no return nothing was changed, and it can be asked for again.
        expect((await rig.target.client.group('shop')).state).toBe('failed-over');
        await waitFor('the VM is not paused', async () => (await rig.libvirt.list('--state-paused')).length === 0);
        done = await rig.run('commit-2', { kind: 'commit', arguments: {} });
      }
      expect(done.state).toBe('succeeded');
      await this.proveCommitted(done.result?.['files'] as string[]);
    } finally {
      gate.open();
      if (existsSync(rig.target.dataDirectory)) await rig.target.kill();
      await this.forget();
    }
  }

  private async proveCommitted(files: readonly string[]): Promise<void> {
    const { rig } = this;
    expect((await rig.target.client.group('shop')).state).toBe('committed');
    expect(await rig.target.client.views('shop')).toEqual([]);
    const disks = dirname(files[0]!);
    expect(files).toEqual(['vda', 'vdb'].map((disk) => join(disks, `count-${disk}.raw`)));
    expect(readdirSync(disks).sort()).toEqual(['count-vda.raw', 'count-vdb.raw']);
    for (const flags of (await rig.libvirt.list()).length > 0 ? [[], ['--inactive']] : [['--inactive']])
      for (const disk of ['vda', 'vdb'])
        expect(await this.domain(...flags)).toContain(`<source file='${disks}/count-${disk}.raw'`);
    expect(await this.domain('--inactive')).not.toContain('tidemark:owner');
    const alive = (await rig.libvirt.list()).length > 0;
    if (!alive) await rig.libvirt.virsh.run(['start', vmUuid]);
    await this.counts();
    await rig.libvirt.virsh.run(['destroy', vmUuid]);
    const text = await this.said();
    expect(text).toMatch(/^\.+$/);
    for (const disk of ['vda', 'vdb']) {
      const counted = readFileSync(join(disks, `count-${disk}.raw`)).readUInt32LE(512) - 1000;
      expect(counted).toBeGreaterThanOrEqual(text.length);
      // What a life wrote last it may not have said.
      expect(counted).toBeLessThanOrEqual(text.length + 4);
    }
  }
}

const cells = Object.entries(boundaries).flatMap(([name, { victims = everyone }]) =>
  victims.map((victim) => [victim, name] as const),
);

describe('a commit', () => {
  const owned = new AsyncDisposableStack();
  /** What became of each cell; the tests look at them in order. */
  const done = cells.map(() => Promise.withResolvers<void>());
  let isOver = false;

  const runLane = async (lane: Lane, waiting: [number, readonly [Victim, string]][]): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined && !isOver; next = waiting.shift()) {
      const [index, [victim, name]] = next;
      await lane.cell(victim, name).then(done[index]!.resolve, done[index]!.reject);
    }
  };
  let lanes: Promise<unknown> = Promise.resolve();

  beforeAll(async () => {
    for (const { promise } of done) promise.catch(() => undefined); // Its test says so.
    const opened: Lane[] = [];
    for (let lane = 0; lane < laneCount; lane++) opened.push(owned.use(await Lane.open()));
    const waiting = [...cells.entries()];
    lanes = Promise.all(opened.map((lane) => runLane(lane, waiting)));
  }, 180_000);
  afterAll(async () => {
    isOver = true;
    await lanes;
    await owned.disposeAsync();
  }, 180_000);

  test.each(cells.map(([victim, name], index) => [victim, name, index] as const))(
    '%s is killed when %s',
    (_victim, _name, index) => done[index]!.promise,
    180_000,
  );
});
