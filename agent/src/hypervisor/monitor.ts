/**
 * QMP, QEMU's machine protocol, however it is reached. One command at a time is on the wire for libvirt; a socket takes
 * several. Events are told as they come; after a lost monitor nothing comes and every command fails.
 */
import { z } from 'zod';
import { TidemarkError } from '../core/errors.js';

export interface MonitorEvent {
  /** E.g. `BLOCK_JOB_COMPLETED`. */
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** Deadline of a command that names none. */
export const commandTimeoutMs = 10_000;

export interface Monitor {
  /**
   * The command's `return`. Throws `hypervisor-failed` with QEMU's own words (see {@link QmpError}), `timed-out` (the
   * command may still be carried out), `hypervisor-unreachable` when the monitor is gone.
   */
  execute(command: string, args?: Readonly<Record<string, unknown>>, timeoutMs?: number): Promise<unknown>;
  /** Returns how to stop. */
  onEvent(listener: (event: MonitorEvent) => void): () => void;
  /** Resolves when the monitor is lost or closed, with why. */
  readonly closed: Promise<string>;
  /** Idempotent. */
  close(): void;
}

/** QEMU refused the command. */
export class QmpError extends TidemarkError {
  /** QEMU's error class: `GenericError`, `DeviceNotFound`, `CommandNotFound` … */
  readonly qmpClass: string;

  constructor(command: string, qmpClass: string, description: string) {
    super('hypervisor-failed', `QEMU refused ${command}: ${description}`);
    this.qmpClass = qmpClass;
  }
}

const errorSchema = z.object({ class: z.string().max(256), desc: z.string().max(65_536) });
export const replySchema = z.union([
  z.object({ return: z.unknown(), id: z.unknown().optional() }).refine((reply) => 'return' in reply),
  z.object({ error: errorSchema, id: z.unknown().optional() }),
]);
export type Reply = z.infer<typeof replySchema>;
export const eventSchema = z.object({
  event: z.string().min(1).max(256),
  data: z.record(z.string(), z.unknown()).default({}),
});

/** The command's result; throws {@link QmpError}. */
export function resultOf(command: string, reply: Reply): unknown {
  if ('error' in reply) throw new QmpError(command, reply.error.class, reply.error.desc);
  return reply.return;
}

/** {@link Monitor.execute} with its result checked; `hypervisor-failed` when QEMU answers something else. */
export async function query<Schema extends z.ZodType>(
  monitor: Monitor,
  schema: Schema,
  command: string,
  args?: Readonly<Record<string, unknown>>,
): Promise<z.infer<Schema>> {
  const parsed = schema.safeParse(await monitor.execute(command, args));
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new TidemarkError(
    'hypervisor-failed',
    `QEMU answered ${command} unexpectedly: ${issue?.path.join('.') ?? ''} ${issue?.message ?? ''}`,
  );
}
