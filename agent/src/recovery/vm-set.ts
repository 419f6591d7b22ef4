/**
 * The VMs of a group at the target, for one operation: planned from the checkpoint's definitions and the settings, defined
 * on a view, booted in waves, and gone again. Everything is idempotent and found again by the owner's mark.
 */
import { createHash } from 'node:crypto';
import { sleep } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { VmDefinition } from '../hypervisor/definition.js';
import type { Readiness, RecoverySpec, RecoveryVm } from '../service/recovery-spec.js';
import { definitionsOf } from '../target/definitions.js';
import type { Checkpoint } from '../target/manifest-records.js';
import type { GroupContext } from '../target/context.js';
import { setAddresses } from './addresses.js';
import { hasAfterRecovery, runAfterRecovery } from './after-recovery.js';
import type { OwnedVm, RecoveryDriver } from './driver.js';
import type { OwnerMark } from './owner-mark.js';
import { runCheck, type CheckResult } from './readiness.js';
import { recoveryXml, type DiskSource, type RecoveryXml } from './recovery-xml.js';

export interface VmSetOptions {
  readonly group: GroupContext;
  /** Name of this agent. */
  readonly agent: string;
  /** For firmware variables, media and logs of the group's VMs, and their disks after a commit. */
  readonly directory: string;
  /** A hypervisor of the configuration; throws `hypervisor-unreachable` when there is none of that name. */
  readonly driver: (name: string) => RecoveryDriver;
}

/** What an operation recovers, and how. */
export interface VmPlan {
  readonly operation: string;
  readonly purpose: OwnerMark['purpose'];
  readonly checkpoint: Checkpoint;
  /** Names of VMs; undefined: all of the settings. */
  readonly only?: readonly string[] | undefined;
  /** In a drill: the network of its own, where the settings say `isolated`. */
  readonly isolatedNetwork?: string;
  /** Besides the readiness of the settings. */
  readonly checks?: readonly { readonly vm: string; readonly check: Readiness }[] | undefined;
  readonly disk: (name: string) => DiskSource | undefined;
}

export interface BootReport {
  readonly vm: string;
  readonly name: string;
  readonly uuid: string;
  readonly wave: number;
  /** From the request to the return of its start; null: it was not started. */
  readonly startedAfterMs: number | null;
  readonly readyAfterMs: number | null;
  readonly checks: readonly CheckResult[];
}

interface Planned {
  readonly spec: RecoveryVm;
  readonly made: RecoveryXml;
  readonly definition: VmDefinition;
}

export class VmSet {
  constructor(private readonly options: VmSetOptions) {}

  /** Throws `illegal-state` when the group has no settings for VMs. */
  get spec(): RecoverySpec {
    const { settings, name } = this.options.group;
    if (settings.recovery !== null) return settings.recovery;
    throw new TidemarkError('illegal-state', `Group ${name} does not say how its VMs are recovered.`, {
      path: 'recovery',
    });
  }

  get driver(): RecoveryDriver {
    return this.options.driver(this.spec.hypervisor);
  }

  /** Everything that can be refused is refused here, before anything is changed. Returns the VMs' names and networks. */
  async check(plan: VmPlan): Promise<{ vms: string[]; disksLeftOut: string[] }> {
    const { driver } = this;
    await driver.ping();
    const planned = await this.planned(plan);
    const owned = new Set((await driver.owned(this.options.group.name)).map(({ uuid }) => uuid));
    for (const [index, { spec, made }] of planned.entries()) {
      const path = `recovery.vms[${index}]`;
      for (const { network } of made.nics) {
        if (network === plan.isolatedNetwork || (await driver.hasNetwork(network))) continue;
        throw new TidemarkError(
          'network-unknown',
          `Hypervisor ${driver.name} has no network ${network} for VM ${spec.vm}.`,
          {
            path: `${path}.networks`,
          },
        );
      }
      if (!owned.has(made.uuid) && (await driver.state(made.uuid)) !== 'absent')
        throw new TidemarkError(
          'vm-refused',
          `Hypervisor ${driver.name} has a VM ${made.uuid} (${made.name}) that is not ours: is it the source's?`,
          { path: `${path}.vm` },
        );
    }
    return {
      vms: planned.map(({ spec }) => spec.vm),
      disksLeftOut: planned.flatMap(({ spec, made }) => made.disksLeftOut.map((disk) => `${spec.vm}-${disk}`)),
    };
  }

  /** Makes every VM known to the hypervisor, with its files; those that run already stay as they are. */
  async define(plan: VmPlan): Promise<void> {
    const { driver } = this;
    const { storage } = this.options.group;
    for (const { made, definition } of await this.planned(plan)) {
      const state = await driver.state(made.uuid);
      if (state !== 'absent' && state !== 'off') continue;
      const directory = this.directory(plan.operation, definition.uuid);
      await storage.makeDirectory(directory);
      for (const { path, content } of made.files) {
        // Firmware variables that the guest has changed since stay.
        if (state === 'off' && (await storage.exists(path))) continue;
        await storage.remove(path);
        const file = await storage.open(path, 'create');
        await file.write(content, 0).finally(() => file.close());
      }
      await driver.define(made.xml);
    }
  }

  /**
   * Boots wave after wave, each when the one before is ready; stops behind a wave that is not. `throughWave`: no further,
   * and without waiting for it to be ready. `sinceMs`: wall time of the request.
   */
  async boot(
    plan: VmPlan,
    { sinceMs, signal, throughWave }: { sinceMs: number; signal: AbortSignal; throughWave?: number },
  ): Promise<BootReport[]> {
    const planned = await this.planned(plan);
    const waves = [...new Set(planned.map(({ spec }) => spec.wave))].sort((a, b) => a - b);
    const reports: BootReport[] = [];
    let held = false;
    for (const wave of waves) {
      const members = planned.filter(({ spec }) => spec.wave === wave);
      if (held || wave > (throughWave ?? Infinity)) {
        reports.push(...members.map(({ spec, made }) => report(spec, made, null, null, [])));
        continue;
      }
      const started = await Promise.all(
        members.map(async (member) => ({ member, afterMs: await this.startOne(member, sinceMs, signal) })),
      );
      if (throughWave !== undefined) {
        reports.push(...started.map(({ member, afterMs }) => report(member.spec, member.made, afterMs, null, [])));
        continue;
      }
      const done = await Promise.all(
        started.map(({ member, afterMs }) => this.ready(plan, member, afterMs, sinceMs, signal)),
      );
      reports.push(...done);
      held = done.some(({ checks }) => checks.some(({ ok }) => !ok));
    }
    return reports;
  }

  /** Where the VMs of the plan are plugged in, each once. */
  async networks(plan: VmPlan): Promise<string[]> {
    return [...new Set((await this.planned(plan)).flatMap(({ made }) => made.nics.map(({ network }) => network)))];
  }

  /** Lowest wave of the settings. */
  firstWave(only?: readonly string[]): number {
    return Math.min(...this.spec.vms.filter(({ vm }) => only?.includes(vm) !== false).map(({ wave }) => wave));
  }

  async owned(matches: (mark: OwnerMark) => boolean): Promise<OwnedVm[]> {
    return (await this.driver.owned(this.options.group.name)).filter(({ mark }) => matches(mark));
  }

  /** Ends and forgets what carries such a mark, with its files. */
  async remove(matches: (mark: OwnerMark) => boolean): Promise<void> {
    const gone = await this.owned(matches);
    for (const { uuid } of gone) await this.driver.remove(uuid);
    for (const operation of new Set(gone.map(({ mark }) => mark.operation))) await this.removeFiles(operation);
  }

  /** Files of an operation's VMs on this host. */
  async removeFiles(operation: string): Promise<void> {
    await this.options.group.storage.removeTree(this.operationDirectory(operation));
  }

  mark(plan: Pick<VmPlan, 'operation' | 'purpose'>, vm: string): OwnerMark {
    const { agent, group } = this.options;
    return { agent, group: group.name, operation: plan.operation, purpose: plan.purpose, vm };
  }

  async planned(plan: VmPlan): Promise<Planned[]> {
    const { group } = this.options;
    const named = definitionsOf(plan.checkpoint);
    const unknown = plan.only?.find((name) => !this.spec.vms.some(({ vm }) => vm === name));
    if (unknown !== undefined)
      throw new TidemarkError('vm-unknown', `Group ${group.name} recovers no VM ${unknown}.`, {
        path: 'arguments.vms',
      });
    const planned: Planned[] = [];
    for (const [index, spec] of this.spec.vms.entries()) {
      if (plan.only?.includes(spec.vm) === false) continue;
      const path = `recovery.vms[${index}].vm`;
      const hash = named[spec.vm];
      if (hash === undefined)
        throw new TidemarkError(
          'definition-unknown',
          `Checkpoint ${plan.checkpoint.id} names no definition of VM ${spec.vm}; it names ${Object.keys(named).join(', ') || 'none'}.`,
          { path },
        );
      const definition = await group.definitions.read(hash);
      planned.push({ spec, definition, made: this.make(plan, spec, definition) });
    }
    return planned;
  }

  private make(plan: VmPlan, spec: RecoveryVm, definition: VmDefinition): RecoveryXml {
    const drill = plan.purpose === 'drill';
    const isolated = drill && this.spec.testNetwork === 'isolated';
    const uuid = definition.uuid;
    return recoveryXml({
      definition,
      mark: this.mark(plan, spec.vm),
      disk: plan.disk,
      network: (from) => {
        const map = spec.networks.find((entry) => entry.from === from);
        if (!drill) return map?.live ?? from;
        return map?.test ?? (isolated ? (plan.isolatedNetwork ?? '') : this.spec.testNetwork);
      },
      mac: drill ? (isolated ? 'keep' : 'new') : spec.mac,
      suffix: drill ? `-drill-${shortHash(plan.operation)}` : undefined,
      directory: this.directory(plan.operation, uuid),
      cloudInit:
        spec.addressesBy === 'cloud-init'
          ? new Map(spec.addresses.map(({ nic, name, live, test }) => [nic, { name, addressing: drill ? test : live }]))
          : undefined,
    });
  }

  private async startOne({ spec, made }: Planned, sinceMs: number, signal: AbortSignal): Promise<number> {
    const { clock } = this.options.group;
    const state = await this.driver.state(made.uuid);
    if (state !== 'running' && spec.delaySeconds > 0) await sleep(clock, spec.delaySeconds * 1000, signal);
    signal.throwIfAborted();
    await this.driver.start(made.uuid);
    return clock.wallMs() - sinceMs;
  }

  private async ready(
    plan: VmPlan,
    { spec, made }: Planned,
    startedAfterMs: number,
    sinceMs: number,
    signal: AbortSignal,
  ): Promise<BootReport> {
    const { clock } = this.options.group;
    const { driver } = this;
    const guest = { driver, uuid: made.uuid, clock };
    const isolated = plan.purpose === 'drill';
    const checks: CheckResult[] = [];
    const changes = (spec.addressesBy === 'cloud-init' ? [] : spec.addresses).map((entry) => ({
      ...entry,
      to: isolated ? entry.test : entry.live,
    }));
    const wanted = changes.filter(({ to }) => to !== 'keep');
    const hooks = spec.hooks.filter(hasAfterRecovery);
    if (wanted.length > 0 || hooks.length > 0) {
      const answers = await runCheck(guest, { kind: 'guest-agent', timeoutSeconds: 600 }, { isolated, signal });
      checks.push(answers);
      for (const { nic, to } of answers.ok ? wanted : []) {
        const mac = made.nics[nic]?.mac;
        if (mac === undefined)
          throw new TidemarkError('vm-refused', `VM ${spec.vm} has no NIC ${nic}.`, {
            path: `recovery.vms.${spec.vm}.addresses`,
          });
        await setAddresses(guest, mac, to, signal);
      }
      for (const settings of answers.ok ? hooks : [])
        checks.push(await runAfterRecovery(guest, spec.vm, settings, signal));
    }
    const more = (plan.checks ?? []).filter(({ vm }) => vm === spec.vm).map(({ check }) => check);
    if (checks.every(({ ok }) => ok))
      checks.push(
        ...(await Promise.all(
          [...spec.readiness, ...more].map((check) => runCheck(guest, check, { isolated, signal })),
        )),
      );
    const ok = checks.every((check) => check.ok);
    return report(spec, made, startedAfterMs, ok ? clock.wallMs() - sinceMs : null, checks);
  }

  /** Of the files of an operation's VMs on this host. */
  operationDirectory(operation: string): string {
    return `${this.options.directory}/${shortHash(operation)}`;
  }

  private directory(operation: string, uuid: string): string {
    return `${this.operationDirectory(operation)}/${uuid}`;
  }
}

function report(
  { vm, wave }: RecoveryVm,
  { name, uuid }: RecoveryXml,
  startedAfterMs: number | null,
  readyAfterMs: number | null,
  checks: readonly CheckResult[],
): BootReport {
  return { vm, name, uuid, wave, startedAfterMs, readyAfterMs, checks };
}

/** Eight hexadecimal digits that stand for an operation in names. */
export function shortHash(words: string): string {
  return createHash('sha256').update(words).digest('hex').slice(0, 8);
}
