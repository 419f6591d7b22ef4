/** What the parts of a target group share. */
import type { Clock } from '../core/clock.js';
import type { EventSink } from '../core/events.js';
import type { Mutex } from '../core/mutex.js';
import type { Random } from '../core/random.js';
import type { Storage } from '../core/storage.js';
import type { Journal } from '../journal/types.js';
import type { DefinitionStore } from './definitions.js';
import type { Checkpoint } from './manifest-records.js';
import type { Manifest } from './manifest.js';
import type { ReplicaSet } from './replica-set.js';
import type { GroupSettings } from './settings.js';

export interface GroupContext {
  readonly name: string;
  /** The group's own directory. */
  readonly directory: string;
  readonly storage: Storage;
  readonly clock: Clock;
  readonly random: Random;
  readonly events: EventSink;
  readonly manifest: Manifest;
  readonly journal: Journal;
  readonly replicas: ReplicaSet;
  readonly settings: GroupSettings;
  /** 32 bytes when the group is encrypted at rest. */
  readonly key: Uint8Array | undefined;
  /** VM definitions that checkpoints name. */
  readonly definitions: DefinitionStore;
  /**
   * Held while a checkpoint is chosen and its use made durable (pin, promotion, failover), so that they never cross.
   */
  readonly lock: Mutex;
  /** The checkpoints that can be recovered now, oldest first. */
  checkpoints(): Checkpoint[];
  /** Ids of checkpoints that a pin or a view holds. */
  pinned(): ReadonlySet<string>;
  /** Now on the source's clock, milliseconds since the Unix epoch. */
  sourceNowMs(): number;
}
