/**
 * What the agent knows of earlier let-goes: asked before a disk is attached, told when a person attaches all the same.
 * State: the let-go records, and `resumed.json`, which names for each group when a person last attached it.
 */
import { z } from 'zod';
import type { Clock } from '../core/clock.js';
import { isTidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import { Mutex } from '../core/mutex.js';
import type { Storage } from '../core/storage.js';
import { readWhole, writeWhole } from '../core/whole-file.js';
import type { GroupStatus } from '../service/group-schemas.js';
import { attachVerdict, letGoWindowMs, type AttachVerdict } from './attach-policy.js';
import { readLetGoes, type LetGo } from './let-go.js';

const resumedSchema = z.object({ version: z.literal(1), groups: z.record(z.string(), z.number()) });
const resumedFile = 'resumed.json';
const bytesMax = 1024 * 1024;

type Alert = GroupStatus['alerts'][number];

/** What a person can do about `capture-detached`. */
const detachedHint = 'Find out why the agent hung (its log, event let-go), then `tidemark vm attach`.';

export interface AttachPermitsOptions {
  readonly storage: Storage;
  readonly directory: string;
  readonly clock: Clock;
  readonly events: EventSink;
}

export class AttachPermits {
  readonly #o: AttachPermitsOptions;
  readonly #mutex = new Mutex();
  #letGoes: readonly LetGo[] = [];
  #resumed: Readonly<Record<string, number>> = {};

  constructor(options: AttachPermitsOptions) {
    this.#o = options;
  }

  /** Reads the state and tells which groups wait or stay detached. Before it every group may be attached. */
  async load(): Promise<void> {
    const { storage, directory, events } = this.#o;
    await storage.makeDirectory(directory);
    this.#letGoes = await readLetGoes(storage, directory);
    this.#resumed = await readResumed(this.#o);
    for (const group of new Set(this.#letGoes.flatMap(({ groups }) => groups))) {
      const verdict = this.mayAttach(group);
      if (verdict.kind === 'detached')
        events.emit('capture-detached', { group, sinceMs: verdict.sinceMs, hint: detachedHint });
      else if (verdict.kind === 'wait')
        events.emit('capture-backs-off', { group, waitMs: verdict.waitMs, letGoCount: verdict.letGoCount });
    }
  }

  mayAttach(group: string): AttachVerdict {
    const times = this.#letGoes.filter(({ groups }) => groups.includes(group)).map(({ wallMs }) => wallMs);
    return attachVerdict(times, this.#resumed[group] ?? -1, this.#o.clock.wallMs());
  }

  /** A person attaches: earlier let-goes of the group count no more. Durable when it resolves. */
  attachAgain(group: string): Promise<void> {
    return this.#mutex.run(async () => {
      const { storage, directory, clock, events } = this.#o;
      // Not before a record, also when the clock was set back.
      const newestMs = Math.max(clock.wallMs(), ...this.#letGoes.map(({ wallMs }) => wallMs));
      const groups = { ...this.#resumed, [group]: newestMs };
      await writeWhole(storage, directory, resumedFile, `${JSON.stringify({ version: 1, groups })}\n`);
      this.#resumed = groups;
      events.emit('capture-resumed', { group });
    });
  }

  /** The alert of a group that stays detached. */
  alertsOf(group: string): Alert[] {
    const verdict = this.mayAttach(group);
    if (verdict.kind !== 'detached') return [];
    const message = 'The agent hung three times in an hour while it held these disks: they stay detached.';
    return [{ code: 'capture-detached', message, hint: detachedHint, sinceMs: verdict.sinceMs }];
  }

  /** Of the last hour, all groups. */
  get recentCount(): number {
    const nowMs = this.#o.clock.wallMs();
    return this.#letGoes.filter(({ wallMs }) => nowMs - wallMs < letGoWindowMs).length;
  }
}

async function readResumed({ storage, directory }: AttachPermitsOptions): Promise<Record<string, number>> {
  try {
    const text = await readWhole(storage, `${directory}/${resumedFile}`, bytesMax);
    return resumedSchema.parse(JSON.parse(text ?? '')).groups;
  } catch (error) {
    if (isTidemarkError(error, 'storage-not-found')) return {};
    // Damaged: as if no person had ever attached; the safe side is to stay detached.
    if (error instanceof SyntaxError || error instanceof z.ZodError) return {};
    throw error;
  }
}
