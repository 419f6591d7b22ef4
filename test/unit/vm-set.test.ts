import { describe, expect, test } from '@jest/globals';
import { TidemarkError } from '../../agent/src/core/errors.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import type { RecoveryDriver, VmState } from '../../agent/src/recovery/driver.js';
import { failedChecks } from '../../agent/src/recovery/evidence.js';
import { VmSet, type VmPlan } from '../../agent/src/recovery/vm-set.js';
import { recoverySpecSchema } from '../../agent/src/service/recovery-spec.js';
import type { GroupContext } from '../../agent/src/target/context.js';
import type { Checkpoint } from '../../agent/src/target/manifest-records.js';
import { countingDefinition } from '../support/counting-guest.js';

const names = ['db', 'app', 'web'];
const uuidOf = (vm: string): string => `2f9c1d1e-6a77-4f0e-9a51-7be8a4a0c00${names.indexOf(vm)}`;

/** Says what was asked of it; a guest's agent answers as `guest` says. */
class FakeDriver {
  readonly asked: string[] = [];
  readonly states = new Map<string, VmState>();
  readonly networks = new Set(['lan', 'production']);
  guest: (vm: string, command: string, args: Readonly<Record<string, unknown>>) => unknown = () => ({});

  as(): RecoveryDriver {
    return this as unknown as RecoveryDriver;
  }

  readonly name = 'fake';
  ping(): Promise<void> {
    return Promise.resolve();
  }
  owned(): Promise<[]> {
    return Promise.resolve([]);
  }
  hasNetwork(name: string): Promise<boolean> {
    return Promise.resolve(this.networks.has(name));
  }
  state(uuid: string): Promise<VmState> {
    return Promise.resolve(this.states.get(uuid) ?? 'absent');
  }
  start(uuid: string): Promise<void> {
    this.asked.push(`start ${vmOf(uuid)}`);
    this.states.set(uuid, 'running');
    return Promise.resolve();
  }
  async agent(uuid: string, command: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    this.asked.push(`${command} ${vmOf(uuid)}`);
    await Promise.resolve();
    return this.guest(vmOf(uuid), command, args);
  }
}

function vmOf(uuid: string): string {
  return names[Number(uuid.at(-1))] ?? '?';
}

function setOf(driver: FakeDriver, vms: unknown[]): VmSet {
  const group = {
    name: 'shop',
    clock: nodeClock,
    settings: { recovery: recoverySpecSchema.parse({ hypervisor: 'fake', vms }) },
    definitions: {
      read: (hash: string) =>
        Promise.resolve(countingDefinition({ name: hash, uuid: uuidOf(hash), disks: [`${hash}-vda`] })),
    },
  } as unknown as GroupContext;
  return new VmSet({ group, agent: 'target', directory: '/m', driver: () => driver.as() });
}

const hash = (vm: string): string => vm.padEnd(64, '0').replaceAll(/[^0-9a-f]/g, '0');
const checkpoint = {
  id: 'c1',
  attributes: { definitions: Object.fromEntries(names.map((vm) => [vm, hash(vm)])) },
} as unknown as Checkpoint;

const plan: VmPlan = {
  operation: 'op',
  purpose: 'live',
  checkpoint,
  disk: (name) => ({ kind: 'nbd', socket: '/s', exportName: name }),
};

/** Definitions are found by hash; the fake group's are the names themselves. */
function prepared(driver: FakeDriver, vms: object[]): VmSet {
  const set = setOf(driver, vms);
  const byHash = new Map(names.map((vm) => [hash(vm), vm]));
  const { definitions } = (set as unknown as { options: { group: GroupContext } }).options.group;
  const read = definitions.read.bind(definitions);
  definitions.read = (of) => read(byHash.get(of) ?? of);
  return set;
}

describe('VMs of an operation', () => {
  const now = { sinceMs: nodeClock.wallMs(), signal: new AbortController().signal };

  test('boot in waves, each when the one before is ready', async () => {
    const driver = new FakeDriver();
    let tries = 0;
    driver.guest = () => {
      if (++tries < 2) throw new TidemarkError('guest-agent', 'not yet');
      return {};
    };
    const set = prepared(driver, [
      { vm: 'web', wave: 3 },
      { vm: 'db', wave: 1, readiness: [{ kind: 'guest-agent' }] },
      { vm: 'app', wave: 2 },
    ]);
    const boots = await set.boot(plan, now);
    expect(driver.asked).toEqual(['start db', 'guest-ping db', 'guest-ping db', 'start app', 'start web']);
    expect(boots.map(({ vm, wave }) => [vm, wave])).toEqual([
      ['db', 1],
      ['app', 2],
      ['web', 3],
    ]);
    expect(failedChecks(boots)).toBeUndefined();
  });

  test('a wave that is not ready holds the later ones back, and says why', async () => {
    const driver = new FakeDriver();
    driver.guest = (_vm, command) =>
      command === 'guest-exec' ? { pid: 7 } : { exited: true, exitcode: 1, 'err-data': 'bm8=' };
    const set = prepared(driver, [
      { vm: 'db', readiness: [{ kind: 'command', command: ['pg_isready'], timeoutSeconds: 1 }] },
      { vm: 'app', wave: 2 },
    ]);
    const boots = await set.boot(plan, now);
    expect(driver.asked).not.toContain('start app');
    expect(failedChecks(boots)).toMatch(/^db: command pg_isready after \d s: it ended with 1: no; not started: app$/);
  });

  test('addresses are set before the checks, by MAC', async () => {
    const driver = new FakeDriver();
    const scripts: unknown[] = [];
    driver.guest = (_vm, command, args) => {
      if (command === 'guest-exec') scripts.push(args['arg']);
      return command === 'guest-exec' ? { pid: 7 } : { exited: true, exitcode: 0 };
    };
    const set = prepared(driver, [
      {
        vm: 'db',
        addresses: [{ nic: 0, live: { addresses: ['10.1.0.5/24'] } }],
        readiness: [{ kind: 'command', command: ['true'] }],
      },
    ]);
    await set.boot(plan, now);
    expect(scripts).toEqual([
      ['-c', expect.stringContaining('ip addr add 10.1.0.5/24'), 'address', '52:54:00:aa:bb:01'],
      [],
    ]);
  });

  test('what a hook must do after a recovery is done before the checks; until it has succeeded nothing later boots', async () => {
    const driver = new FakeDriver();
    const ran: string[] = [];
    let begins = false;
    driver.guest = (_vm, command, args) => {
      if (command === 'guest-exec') ran.push(JSON.stringify(args).includes('begin') ? 'begin' : 'check');
      if (command !== 'guest-exec-status') return { pid: 7 };
      return begins || ran.at(-1) === 'check' ? { exited: true, exitcode: 0 } : { exited: true, exitcode: 1 };
    };
    const command = { kind: 'command', quiesce: ['true'], release: ['true'], afterRecovery: ['begin'] };
    const set = prepared(driver, [
      {
        ...{ vm: 'db', hooks: [{ kind: 'fsfreeze' }, { ...command, prepareSeconds: 1 }] },
        readiness: [{ kind: 'command', command: ['true'] }],
      },
      { vm: 'app', wave: 2 },
    ]);
    const failed = await set.boot(plan, now);
    expect(failedChecks(failed)).toMatch(
      /^db: afterRecovery command after \d+ s: .* ended with 1.*; not started: app$/,
    );
    expect(ran).toEqual(['begin']);
    begins = true;
    expect(failedChecks(await set.boot(plan, now))).toBeUndefined();
    expect(ran).toEqual(['begin', 'begin', 'check']);
    expect(driver.asked).toContain('start app');
  });

  test('what is refused, is refused before anything changes, with its property', async () => {
    const driver = new FakeDriver();
    const check = (vms: object[], extra: Partial<VmPlan> = {}): Promise<unknown> =>
      prepared(driver, vms).check({ ...plan, ...extra });
    await expect(check([{ vm: 'db' }, { vm: 'nobody' }])).rejects.toMatchObject({
      code: 'definition-unknown',
      path: 'recovery.vms[1].vm',
    });
    await expect(check([{ vm: 'db', networks: [{ from: 'production', live: 'mars' }] }])).rejects.toMatchObject({
      code: 'network-unknown',
      path: 'recovery.vms[0].networks',
    });
    await expect(check([{ vm: 'db' }], { only: ['app'] })).rejects.toMatchObject({ code: 'vm-unknown' });
    driver.states.set(uuidOf('db'), 'running');
    await expect(check([{ vm: 'db' }])).rejects.toMatchObject({ code: 'vm-refused', path: 'recovery.vms[0].vm' });
    expect(driver.asked).toEqual([]);
  });
});
