/** The client of MariaDB or MySQL in the guest: statements that end, and the session that is held. */
import { z } from 'zod';
import { TidemarkError } from '../core/errors.js';
import type { HeldSession, ProgramOptions } from './guest-session.js';
import type { HookStep } from './hook.js';
import type { InnoDbSettings } from './innodb-settings.js';
import { secretOf } from './secret-file.js';

export const redoSchema = z.object({ redoBytes: z.number() });
export const loweredSchema = z.object({ isLowered: z.number() });

export class InnoDbClient {
  constructor(
    private readonly settings: InnoDbSettings,
    private readonly product: string,
  ) {}

  /** Statements whose last one answers one row of JSON; the others answer nothing. */
  async ask<Schema extends z.ZodType>(step: HookStep, sql: string, schema: Schema): Promise<z.infer<Schema>> {
    const text = await this.run(step, sql);
    const parsed = schema.safeParse(jsonOf(text));
    if (parsed.success) return parsed.data;
    throw new TidemarkError('hook-failed', `${this.product} in ${step.vm} answers ${text.trim().slice(0, 300)}`);
  }

  /** Throws with the server's own words at the first statement that fails. */
  async run(step: HookStep, sql: string): Promise<string> {
    const { exitCode, stdout, stderr } = await step.guest.run(this.#words(), await this.#options(step, `${sql};\n`));
    if (exitCode === 0) return stdout;
    throw new TidemarkError(
      'hook-failed',
      `${this.product} in ${step.vm} says: ${stderr.trim().slice(-500) || exitCode}`,
    );
  }

  /** Stays; a statement that fails ends it. */
  async open(step: HookStep, sql: string): Promise<HeldSession> {
    return step.guest.open(this.#words(), await this.#options(step, `${sql}\n`));
  }

  /** A session that was lost is never made anew by itself. */
  #words(): string[] {
    const { client, socket, user } = this.settings;
    const form = ['--batch', '--raw', '--skip-column-names', '--unbuffered', '--skip-reconnect'];
    return [client, ...form, `--socket=${socket}`, `--user=${user}`];
  }

  async #options({ leftMs }: HookStep, input: string): Promise<ProgramOptions> {
    const { passwordFile } = this.settings;
    if (passwordFile === undefined) return { input, timeoutMs: leftMs() };
    return { input, timeoutMs: leftMs(), environment: { MYSQL_PWD: await secretOf(passwordFile) } };
  }
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
