/**
 * What the policy pack asks of a stack, as plain functions over its resources: testable without an engine, and the same in
 * preview and update. Only inputs are read, and of a drill what it has proven.
 */
export interface StackResource {
  readonly type: string;
  readonly name: string;
  readonly props: Readonly<Record<string, unknown>>;
}

export interface ServiceClass {
  /** Seconds of data that may be lost; a group marks twice as often. */
  readonly rpoSeconds: number;
  readonly historyHours: number;
}

export interface PackConfig {
  /** By the group's label `class`. */
  readonly classes: Readonly<Record<string, ServiceClass>>;
  /** VM resources with this tag, of this value, must be protected. */
  readonly tierTag: string;
  readonly tierValue: string;
  /** Names of VMs that must be protected although no resource of the stack makes them. */
  readonly tierOneVms: readonly string[];
  readonly drillDays: number;
}

export const defaultConfig: PackConfig = {
  classes: {
    gold: { rpoSeconds: 10, historyHours: 24 * 30 },
    silver: { rpoSeconds: 60, historyHours: 24 * 7 },
    bronze: { rpoSeconds: 900, historyHours: 24 },
  },
  tierTag: 'tier',
  tierValue: '1',
  tierOneVms: [],
  drillDays: 90,
};

/** What is wrong, and with which resource; undefined: with the stack. */
export interface Finding {
  readonly resource?: StackResource;
  readonly message: string;
}

const groupType = 'tidemark:index:ProtectionGroup';
const sourceType = 'tidemark:index:SourceGroup';
const drillType = 'tidemark:index:RecoveryDrill';
/** What the agent does when the program says nothing. */
const intervalSecondsDefault = 5;
const windowSecondsDefault = 30 * 86_400;
const hourSeconds = 3600;
const dayMs = 86_400_000;

export function unprotectedVms(resources: readonly StackResource[], config: PackConfig): Finding[] {
  const { tierTag, tierValue, tierOneVms } = config;
  const covered = new Set(groupsOf(resources).flatMap((group) => vmsOf(group)));
  const tagged = resources
    .filter(({ type, props }) => !type.startsWith('tidemark:') && text(props, 'tags', tierTag) === tierValue)
    .map((resource) => ({ resource, vm: text(resource.props, 'name') ?? resource.name }));
  return [
    ...tagged
      .filter(({ vm }) => !covered.has(vm))
      .map(({ resource, vm }) => ({ resource, message: `VM ${vm} is tier ${tierValue} and no group protects it` })),
    ...tierOneVms
      .filter((vm) => !covered.has(vm))
      .map((vm) => ({ message: `VM ${vm} is in tierOneVms and no group of this stack protects it` })),
  ];
}

export function belowClass(resources: readonly StackResource[], { classes }: PackConfig): Finding[] {
  return groupsOf(resources).flatMap((resource) => {
    const name = text(resource.props, 'labels', 'class');
    if (name === undefined) return [];
    const wanted = classes[name];
    if (wanted === undefined)
      return [{ resource, message: `class ${name} is none of ${Object.keys(classes).join(', ')}` }];
    const rpo = 2 * (number(resource.props, 'policy', 'checkpointIntervalSeconds') ?? intervalSecondsDefault);
    const hours = (number(resource.props, 'policy', 'history', 'windowSeconds') ?? windowSecondsDefault) / hourSeconds;
    return [
      ...(rpo > wanted.rpoSeconds
        ? [
            {
              resource,
              message: `class ${name} wants an RPO of ${wanted.rpoSeconds} s; its checkpoints allow ${rpo} s`,
            },
          ]
        : []),
      ...(hours < wanted.historyHours
        ? [{ resource, message: `class ${name} wants ${wanted.historyHours} h of history; it keeps ${hours} h` }]
        : []),
    ];
  });
}

/** Hooks of a whole guest, not of a database in it. */
const wholeGuest = ['fsfreeze', 'windows'];

/** VMs that the label `databases` names, separated by commas. */
export function databasesWithoutHooks(resources: readonly StackResource[]): Finding[] {
  return groupsOf(resources).flatMap((resource) => {
    const databases = (text(resource.props, 'labels', 'databases') ?? '').split(',').map((vm) => vm.trim());
    const hooked = resources
      .filter(({ type, props }) => type === sourceType && text(props, 'name') === text(resource.props, 'name'))
      .flatMap(({ props }) => list(props, 'capture', 'hooks', 'vms'))
      .filter((vm) => list(vm, 'hooks').some((hook) => !wholeGuest.includes(text(hook, 'kind') ?? '')))
      .map((vm) => text(vm, 'vm'));
    return databases
      .filter((vm) => vm !== '' && !hooked.includes(vm))
      .map((vm) => ({ resource, message: `database ${vm} has no hook of its own in the hooks of its source group` }));
  });
}

export function sharedFailureDomain(resources: readonly StackResource[]): Finding[] {
  return groupsOf(resources).flatMap((resource) => {
    const [source, target] = ['sourceFailureDomain', 'targetFailureDomain'].map((label) =>
      text(resource.props, 'labels', label),
    );
    const hosts = ['source', 'target'].map((site) => hostOf(text(resource.props, site, 'api')));
    if (source !== undefined && source === target)
      return [{ resource, message: `both sites are in the failure domain ${source}` }];
    if (hosts[0] !== undefined && hosts[0] === hosts[1])
      return [{ resource, message: `both agents answer at the host ${hosts[0]}` }];
    if (source === undefined || target === undefined)
      return [{ resource, message: 'it does not say in which failure domains its sites are' }];
    return [];
  });
}

export function unencryptedJournal(resources: readonly StackResource[]): Finding[] {
  return groupsOf(resources)
    .filter(({ props }) => text(props, 'policy', 'encryptionKeyFile') === undefined)
    .map((resource) => ({
      resource,
      message: 'journal, replica and scratch are not encrypted: set encryptionKeyFile',
    }));
}

/** Of groups with VMs. A drill that this very update runs has not proven anything yet, and is taken as just run. */
export function drillTooOld(resources: readonly StackResource[], { drillDays }: PackConfig, nowMs: number): Finding[] {
  const drills = resources.filter(({ type }) => type === drillType);
  return groupsOf(resources)
    .filter((group) => vmsOf(group).length > 0)
    .flatMap((resource) => {
      const good = drills
        .filter(({ props }) => text(props, 'group') === text(resource.props, 'name'))
        .map(({ props }) => goodSinceMs(props, nowMs))
        .filter((ms) => ms !== undefined);
      if (good.length === 0) return [{ resource, message: 'no drill of it has passed' }];
      const days = (nowMs - Math.max(...good)) / dayMs;
      return days <= drillDays
        ? []
        : [{ resource, message: `its last good drill is ${Math.floor(days)} days old, more than ${drillDays}` }];
    });
}

function goodSinceMs(props: StackResource['props'], nowMs: number): number | undefined {
  let result: string | undefined;
  let finished: string | undefined;
  try {
    [result, finished] = [text(props, 'result'), text(props, 'finishedAt')];
  } catch {
    // In a preview, what is not known yet may not be looked at.
  }
  if (result === undefined) return nowMs;
  const ms = Date.parse(finished ?? '');
  return result === 'passed' && !Number.isNaN(ms) ? ms : undefined;
}

function groupsOf(resources: readonly StackResource[]): StackResource[] {
  return resources.filter(({ type }) => type === groupType);
}

function vmsOf({ props }: StackResource): string[] {
  return list(props, 'policy', 'recovery', 'vms').flatMap((vm) => text(vm, 'vm') ?? []);
}

function at(value: unknown, path: readonly string[]): unknown {
  return path.reduce<unknown>((inner, key) => (inner as Record<string, unknown> | null | undefined)?.[key], value);
}

function text(value: unknown, ...path: string[]): string | undefined {
  const found = at(value, path);
  return typeof found === 'string' ? found : undefined;
}

function number(value: unknown, ...path: string[]): number | undefined {
  const found = at(value, path);
  return typeof found === 'number' ? found : undefined;
}

function list(value: unknown, ...path: string[]): unknown[] {
  const found = at(value, path);
  return Array.isArray(found) ? found : [];
}

function hostOf(api: string | undefined): string | undefined {
  return api === undefined ? undefined : new URL(api).hostname;
}
