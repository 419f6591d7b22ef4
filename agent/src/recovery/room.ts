/** What the recovery of one group works with. */
import { disksAt } from '../target/disk-set.js';
import type { TargetGroup } from '../target/group.js';
import { resolveCheckpoint } from '../target/checkpoints.js';
import type { Checkpoint } from '../target/manifest-records.js';
import { exportOf, type ViewExports } from './view-disks.js';
import type { RecoveryDriver } from './driver.js';
import type { DiskSource } from './recovery-xml.js';
import { VmSet } from './vm-set.js';

export interface RecoveryEnvironment {
  /** Name of this agent. */
  readonly agent: string;
  readonly driver: (name: string) => RecoveryDriver;
  readonly socketPath: string;
  readonly exportName: (group: string, view: string, disk: string) => string;
  /** Holds a directory for each group: firmware variables, media, logs, committed disks. */
  readonly directory: string;
  /** Resolves when the NBD socket is served: no VM can be started before. */
  readonly serving: Promise<void>;
}

/** Of the id of a failover's view; the operation's id follows. */
const productionPrefix = 'production-';

/** The failover that made a production view. */
export function operationOf(view: string): string {
  return view.slice(productionPrefix.length);
}

export class Room {
  readonly vms: VmSet;
  readonly exports: ViewExports;
  /** Aborts when the agent stops: what is under way goes on at the next start. */
  readonly stopping = new AbortController();

  constructor(
    readonly group: TargetGroup,
    readonly environment: RecoveryEnvironment,
  ) {
    const { agent, driver, socketPath, exportName } = environment;
    this.vms = new VmSet({ group: group.context, agent, driver, directory: this.directory });
    this.exports = { socketPath, exportName: (view, disk) => exportName(group.name, view, disk) };
  }

  get directory(): string {
    return `${this.environment.directory}/${this.group.name}`;
  }

  get enabled(): boolean {
    return this.group.context.settings.recovery !== null;
  }

  /** The step's signal, and the agent's end. */
  signal(step: AbortSignal): AbortSignal {
    return AbortSignal.any([step, this.stopping.signal]);
  }

  checkpoint(id: unknown): Checkpoint {
    return resolveCheckpoint(this.group.checkpoints(), { by: 'id', checkpoint: String(id), allowIncomplete: true });
  }

  /** Disks of a view that is not open yet. */
  futureDisk(checkpoint: Checkpoint, view: string): (disk: string) => DiskSource | undefined {
    const known = disksAt(this.group.context.manifest.state, checkpoint.vector);
    const present = new Set(
      known.filter(({ index }) => !checkpoint.disksMissing.includes(index)).map(({ name }) => name),
    );
    return (disk) => (present.has(disk) ? exportOf(this.exports, view, disk) : undefined);
  }
}
