/**
 * What a reload (SIGHUP) may change while the agent runs. A plan is all or nothing: with one refused property nothing
 * is applied, and the agent goes on with the old configuration.
 */
import { canonicalJson } from '../service/same-request.js';
import type { AgentConfig } from './schema.js';
import type { SourceGroupConfig } from './schema-groups.js';

/** Paths of the changed properties. */
export interface ReloadPlan {
  readonly live: readonly string[];
  readonly refused: readonly { readonly path: string; readonly reason: string }[];
}

const restart = 'needs a restart of the agent';
const liveSourceKeys = ['checkpointIntervalSeconds', 'targets', 'hooks'];
/** Whole properties that change live. */
const liveProperties = ['access', 'peers', 'throttle', 'log', 'drainSeconds'] as const;
const restartProperties = ['site', 'agent', 'dataDirectory', 'listen', 'buffers', 'guard', 'hypervisors'] as const;

export function planReload(before: AgentConfig, after: AgentConfig): ReloadPlan {
  const live: string[] = [];
  const refused: { path: string; reason: string }[] = [];
  const refuse = (path: string, reason: string): void => void refused.push({ path, reason });

  for (const property of liveProperties) if (!equal(before[property], after[property])) live.push(property);
  for (const property of restartProperties) if (!equal(before[property], after[property])) refuse(property, restart);
  // The files are read again on every reload (renewed certificates); their names may change too.
  if (!equal(before.tls, after.tls)) live.push('tls');

  planGroups(before.sourceGroups, after.sourceGroups, 'sourceGroups', liveSourceKeys, live, refuse);
  planDisks(before, after, live, refuse);
  planGroups(
    before.targetGroups,
    after.targetGroups,
    'targetGroups',
    ['checkpointIntervalSeconds', 'history', 'disks', 'newDisks', 'diskSizeMax', 'holdMsMax'],
    live,
    refuse,
  );
  return { live, refused };
}

/** What of a source group that was declared by the API may change, as a reload judges it; `reopens`: not while it is open. */
export function planSourceGroup(
  before: SourceGroupConfig,
  after: SourceGroupConfig,
): { readonly reopens: boolean; readonly refused: ReloadPlan['refused'] } {
  const refused: { path: string; reason: string }[] = [];
  const refuse = (path: string, reason: string): void =>
    void refused.push({ path: path.replace('sourceGroups[0]', 'spec'), reason });
  planGroups([before], [after], 'sourceGroups', liveSourceKeys, [], refuse);
  planDisks({ sourceGroups: [before] }, { sourceGroups: [after] }, [], refuse);
  const real = refused.filter(({ reason }) => reason !== restart);
  return { reopens: real.length < refused.length, refused: real };
}

type Group = { readonly name: string } & Readonly<Record<string, unknown>>;

/** New groups and the named properties change live; removal and all else is refused. */
function planGroups(
  before: readonly Group[],
  after: readonly Group[],
  list: string,
  liveKeys: readonly string[],
  live: string[],
  refuse: (path: string, reason: string) => void,
): void {
  for (const [index, group] of after.entries()) {
    const path = `${list}[${index}]`;
    const old = before.find((other) => other.name === group.name);
    if (old === undefined) {
      live.push(path);
      continue;
    }
    for (const key of new Set([...Object.keys(old), ...Object.keys(group)])) {
      if (equal(old[key], group[key]) || (list === 'sourceGroups' && key === 'disks')) continue;
      if (liveKeys.includes(key)) live.push(`${path}.${key}`);
      else
        refuse(`${path}.${key}`, key === 'encryptionKeyFile' ? 'a group keeps the key it was written with' : restart);
    }
  }
  for (const [index, old] of before.entries())
    if (!after.some((group) => group.name === old.name))
      refuse(
        `${list}[${index}]`,
        `${old.name} is missing; a group is removed by \`tidemark group remove\`, never by leaving it out`,
      );
}

/** Disks of a source group come, grow and go; what else of one changes is refused. */
function planDisks(
  { sourceGroups: before }: Pick<AgentConfig, 'sourceGroups'>,
  { sourceGroups: after }: Pick<AgentConfig, 'sourceGroups'>,
  live: string[],
  refuse: (path: string, reason: string) => void,
): void {
  for (const [index, group] of after.entries()) {
    const old = before.find(({ name }) => name === group.name);
    if (old === undefined || equal(old.disks, group.disks)) continue;
    let refused = false;
    for (const [at, disk] of group.disks.entries()) {
      const known = old.disks.find(({ name }) => name === disk.name);
      if (known === undefined || equal({ ...known, sizeBytes: 0 }, { ...disk, sizeBytes: 0 })) {
        if ((disk.sizeBytes ?? Infinity) >= (known?.sizeBytes ?? 0)) continue;
        refuse(`sourceGroups[${index}].disks[${at}].sizeBytes`, 'a disk does not shrink');
      } else refuse(`sourceGroups[${index}].disks[${at}]`, restart);
      refused = true;
    }
    if (!refused) live.push(`sourceGroups[${index}].disks`);
  }
}

function equal(a: unknown, b: unknown): boolean {
  return canonicalJson(a) === canonicalJson(b);
}
