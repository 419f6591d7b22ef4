/**
 * Source groups that are declared by the API. The configuration file goes before them, and a reversal before both: while it
 * says that a group goes the other way, its declaration stands and does nothing. Durable first, then opened; what cannot be
 * opened is tried again by the source side.
 */
import { z } from 'zod';
import { planSourceGroup } from '../config/reload.js';
import type { AgentConfig } from '../config/schema.js';
import { sourceGroupSchema, sourceGroupSpecSchema, type SourceGroupConfig } from '../config/schema-groups.js';
import { TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import { Mutex } from '../core/mutex.js';
import type { Storage } from '../core/storage.js';
import type { DeclareSource, RemoveSource, SourceDeclaration } from '../service/declaration-schemas.js';
import { nameSchema } from '../service/scalars.js';
import { canonicalJson } from '../service/same-request.js';
import type { DeclaredRecords } from './declared-records.js';
import type { DirectionRecords } from './direction-records.js';
import type { SourceSide } from './source-side.js';
import type { SourceVms } from './source-vms.js';

export const declaredSourceSchema = z.object({
  version: z.literal(1),
  name: nameSchema,
  owner: z.string().nullable(),
  policyRevision: z.number().int().positive(),
  spec: sourceGroupSpecSchema,
});
export type DeclaredSource = z.infer<typeof declaredSourceSchema>;

export interface DeclaredSourcesOptions {
  readonly records: DeclaredRecords<DeclaredSource>;
  readonly directions: DirectionRecords;
  readonly sources: SourceSide;
  readonly vms: SourceVms;
  /** With the peers of this moment. */
  readonly config: () => AgentConfig;
  /** A target group of this agent has that name. */
  readonly isTarget: (name: string) => boolean;
  /** Opens and changes source groups as they are now declared. */
  readonly changed: () => Promise<void>;
  readonly storage: Storage;
  readonly events: EventSink;
  /** Spools and epoch files of the links lie below it. */
  readonly spoolDirectory: string;
}

export class DeclaredSources {
  private readonly changing = new Mutex();

  constructor(private readonly options: DeclaredSourcesOptions) {}

  /** Of the file or of the API. Throws `group-unknown`. */
  get(name: string): SourceDeclaration {
    const { records, sources, config } = this.options;
    const ofFile = config().sourceGroups.find((group) => group.name === name);
    const record = records.get(name);
    const spec = ofFile === undefined ? record?.spec : withoutName(ofFile);
    if (spec === undefined) throw new TidemarkError('group-unknown', `No source group ${name} is declared here.`);
    return {
      ...{ name, spec, declaredBy: ofFile === undefined ? 'api' : 'file' },
      policyRevision: ofFile === undefined ? (record?.policyRevision ?? 0) : 0,
      owner: ofFile === undefined ? (record?.owner ?? null) : null,
      opened: sources.find(name) !== undefined,
      problem: sources.notOpened.get(name) ?? null,
    };
  }

  declare(name: string, request: DeclareSource): Promise<SourceDeclaration> {
    return this.changing.run(async () => {
      const known = this.options.records.get(name);
      this.refuse(name, known, request);
      const owner = request.owner ?? known?.owner ?? null;
      const changes = known === undefined || canonicalJson(known.spec) !== canonicalJson(request.spec);
      if (changes || known.owner !== owner) await this.save(name, known, request.spec, owner, changes);
      return this.get(name);
    });
  }

  remove(name: string, { owner, policyRevision }: RemoveSource): Promise<void> {
    return this.changing.run(async () => {
      const { records, directions, sources, storage, spoolDirectory, events } = this.options;
      const known = records.get(name);
      if (known === undefined) return this.refuseOfFile(name);
      if (known.owner !== null && owner !== undefined && owner !== known.owner)
        throw new TidemarkError('group-exists', `Source group ${name} belongs to ${known.owner}.`, { path: 'owner' });
      checkRevision(known, policyRevision);
      const turned = directions.get(name);
      // First what would capture it again after a kill, the declaration last: until it is gone the removal is asked for again.
      if (turned?.role === 'source') await directions.remove(name);
      if (turned?.role !== 'target' && !this.isOfFile(name)) {
        await sources.remove(name);
        // The epoch that its links knew is of a history that ends here.
        await storage.removeTree(`${spoolDirectory}/${name}`);
      }
      await records.remove(name);
      events.emit('source-removed', { group: name });
    });
  }

  private isOfFile(name: string): boolean {
    return this.options.config().sourceGroups.some((group) => group.name === name);
  }

  private refuseOfFile(name: string): void {
    if (!this.isOfFile(name)) return;
    throw new TidemarkError(
      'group-exists',
      `${name} stands in the configuration file of this agent; only there it is changed.`,
      { path: 'name' },
    );
  }

  private refuse(name: string, known: DeclaredSource | undefined, request: DeclareSource): void {
    const { directions, isTarget } = this.options;
    this.refuseOfFile(name);
    if (known !== undefined) {
      const held = known.owner;
      if (held !== null && request.owner !== undefined && request.owner !== held && request.previousOwner !== held)
        throw new TidemarkError('group-exists', `Source group ${name} belongs to ${held}.`, { path: 'owner' });
      checkRevision(known, request.expect?.policyRevision);
    }
    const direction = directions.get(name);
    if (direction === undefined && isTarget(name))
      throw new TidemarkError('group-exists', `${name} is a target group of this agent.`, { path: 'name' });
    if (direction === undefined) return;
    if (direction.role === 'target' && known === undefined)
      throw new TidemarkError(
        'group-exists',
        `Group ${name} was reversed and is protected to here; what is captured is for its other side to say.`,
        { path: 'name' },
      );
    if (direction.role === 'source' && known === undefined)
      throw new TidemarkError('group-exists', `Group ${name} is captured here since a reversal.`, { path: 'name' });
  }

  private async save(
    name: string,
    known: DeclaredSource | undefined,
    spec: DeclaredSource['spec'],
    owner: string | null,
    changes: boolean,
  ): Promise<void> {
    const { records, directions, sources, vms, changed, events } = this.options;
    const config = sourceGroupSchema.parse({ name, ...spec });
    const policyRevision = (known?.policyRevision ?? 0) + (changes ? 1 : 0);
    const record: DeclaredSource = { version: 1, name, owner, policyRevision, spec };
    if (!changes) return records.save(record);
    const running = sources.find(name);
    const plan = running === undefined ? undefined : planSourceGroup(running.config, config);
    const direction = directions.get(name);
    const [refused] = plan?.refused ?? [];
    if (refused !== undefined)
      throw new TidemarkError('request-invalid', `${refused.path}: ${refused.reason}`, { path: refused.path });
    this.checkPlace(config);
    // It does nothing until the group comes home; its VMs are elsewhere.
    if (direction?.role === 'target') return records.save(record);
    await vms.plan(config).catch((error: unknown) => {
      throw inSpec(error);
    });
    if (direction?.role === 'source') await directions.save({ ...direction, config });
    await records.save(record);
    events.emit('source-declared', { group: name, policyRevision });
    if (plan?.reopens === true) await sources.remove(name);
    await changed();
  }

  /** What the configuration file is checked for as a whole. */
  private checkPlace({ name, targets, vms, disks }: SourceGroupConfig): void {
    const { config, records } = this.options;
    const { peers, hypervisors, sourceGroups } = config();
    const complain = (path: string, message: string): never => {
      throw new TidemarkError('request-invalid', message, { path: `spec.${path}` });
    };
    for (const [index, { peer, address }] of targets.entries()) {
      const found = peers.find((each) => each.name === peer);
      if (found === undefined) complain(`targets[${index}].peer`, `${peer} is not a peer of this agent`);
      if ((address ?? found?.address) === undefined)
        complain(`targets[${index}].address`, `no address here nor for the peer ${peer}`);
    }
    for (const [index, { hypervisor }] of vms.entries())
      if (!hypervisors.some((each) => each.name === hypervisor))
        complain(`vms[${index}].hypervisor`, `${hypervisor} is not in hypervisors of this agent`);
    const exportsOf = (group: Pick<SourceGroupConfig, 'name' | 'disks'>): string[] =>
      group.disks.map((disk) => disk.exportName ?? `${group.name}/${disk.name}`);
    const others = [...sourceGroups, ...records.list().map((each) => ({ name: each.name, disks: each.spec.disks }))];
    const taken = new Set(others.filter((other) => other.name !== name).flatMap(exportsOf));
    for (const [index, exportName] of exportsOf({ name, disks }).entries())
      if (taken.has(exportName)) complain(`disks[${index}].exportName`, `another disk is exported as ${exportName}`);
  }
}

/** Groups that the API declared and the configuration file does not have. */
export function declaredGroups(records: DeclaredRecords<DeclaredSource>, config: AgentConfig): SourceGroupConfig[] {
  return records
    .list()
    .filter(({ name }) => !config.sourceGroups.some((group) => group.name === name))
    .map(({ name, spec }) => sourceGroupSchema.parse({ name, ...spec }));
}

function withoutName({ name: _name, ...spec }: SourceGroupConfig): DeclaredSource['spec'] {
  return spec;
}

function checkRevision({ name, policyRevision }: DeclaredSource, expected: number | undefined): void {
  if (expected !== undefined && expected !== policyRevision)
    throw new TidemarkError(
      'stale-revision',
      `Source group ${name} is at policy revision ${policyRevision}, not ${expected}.`,
      { path: 'expect.policyRevision' },
    );
}

function inSpec(error: unknown): unknown {
  if (!(error instanceof TidemarkError) || error.path === undefined) return error;
  return new TidemarkError(error.code, error.message, { path: `spec.${error.path}`, cause: error });
}
