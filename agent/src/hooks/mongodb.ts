/**
 * mongodb: fsyncLock in one session that was opened and authenticated before the hold, for a server that is locked may not
 * let anybody log in; fsyncUnlock in the same. When this agent dies the guest unlocks by itself (mongodb-scripts.ts).
 */
import { z } from 'zod';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { HeldSession, ProgramResult } from './guest-session.js';
import type { Hook, HookModule, HookStep, Prepared, Verified } from './hook.js';
import { mongodbDocument } from './mongodb-document.js';
import { factsJs, findingsOf, mongodbFactsSchema, pathsOf } from './mongodb-facts.js';
import { endTimerScript, guarded, timerScript, timersScript, unlockJs } from './mongodb-scripts.js';
import { secretOf } from './secret-file.js';
import type { HookSettingsOf } from './settings.js';

type Settings = HookSettingsOf<'mongodb'>;

const countSchema = z.object({ lockCount: z.number().int() });
/** What nobody's agent holds any more ends after this. */
const sessionSeconds = 900;

class MongoDb implements Hook {
  #session: HeldSession | undefined;
  #timer: string | undefined;
  #mayBeLocked = false;
  /** After our lock, and after our unlock in the same session. */
  #lockedCount: number | undefined;
  #freedCount: number | undefined;
  #wasUnfired = false;

  constructor(private readonly settings: Settings) {}

  async prepare(step: HookStep): Promise<Prepared> {
    const words = ['timeout', '-s', 'KILL', String(sessionSeconds), ...this.#words()];
    const input = `${await this.#login()}${guarded(factsJs)}\n`;
    this.#session = await step.guest.open(words, { input, timeoutMs: step.leftMs() });
    const facts = await this.#answer(step, this.#session, 'facts', mongodbFactsSchema);
    const findings = findingsOf(facts, this.settings);
    return { findings: findings.length > 0 ? findings : await step.unprotected(pathsOf(facts)) };
  }

  async quiesce(step: HookStep): Promise<void> {
    const session = this.#session;
    if (session === undefined) throw new TidemarkError('hook-failed', `MongoDB in ${step.vm} has no session.`);
    const { lockWaitSeconds, releaseAfterSeconds } = this.settings;
    this.#mayBeLocked = true;
    const args = [String(releaseAfterSeconds), ...this.#words()];
    const { stdout } = await this.#run(step, timerScript, args, `${await this.#login()}${guarded(unlockJs)}`);
    this.#timer = /^timer (\d+)$/m.exec(stdout)?.[1];
    if (this.#timer === undefined)
      throw new TidemarkError('hook-failed', `The guest ${step.vm} could not be told to unlock by itself.`);
    const lock = `{ fsync: 1, lock: true, fsyncLockAcquisitionTimeoutMillis: ${Math.round(lockWaitSeconds * 1000)} }`;
    await session.send(guarded(countJs('held', lock)));
    this.#lockedCount = (await this.#answer(step, session, 'held', countSchema)).lockCount;
    if (this.#lockedCount < 1) throw new TidemarkError('hook-failed', `MongoDB in ${step.vm} is not locked.`);
  }

  async release(step: HookStep): Promise<void> {
    if (!this.#mayBeLocked) return;
    const isFree = this.#freedCount !== undefined || (await this.#unlock(step));
    // Where it is not known that it is unlocked, the guest still looks for itself.
    if (isFree && this.#timer !== undefined) {
      const args = [this.#timer, String(this.settings.releaseAfterSeconds)];
      const { stdout } = await this.#run(step, endTimerScript, args);
      this.#wasUnfired ||= /^timer unfired$/m.test(stdout);
    }
    this.#mayBeLocked = false;
  }

  async verify(): Promise<Verified> {
    const [locked, freed] = [this.#lockedCount, this.#freedCount];
    if (locked === undefined || freed === undefined || !this.#wasUnfired)
      return {
        findings: [{ code: 'lock-lost', reason: 'it is not certain that the lock was held until the release' }],
        verifiedBy: [],
      };
    return {
      findings: [],
      verifiedBy: [
        `fsyncLock held by one session, lockCount ${locked} then ${freed}; the guest did not unlock by itself`,
      ],
    };
  }

  async undo(step: HookStep): Promise<string[]> {
    const { stdout } = await this.#run(step, timersScript, ['look']);
    if (!/^timer \d+$/m.test(stdout)) return [];
    const wasLocked = await this.#unlockAnew(step).catch((error: unknown) => {
      // A server that does not run is not locked when it starts.
      if (isTidemarkError(error, 'hook-failed') && error.message.includes('ECONNREFUSED')) return false;
      throw error;
    });
    await this.#run(step, timersScript, ['end']);
    return wasLocked ? ['unlocked MongoDB'] : [];
  }

  async afterRecovery(): Promise<void> {
    // A lock does not outlive its process, and it replays its journal by itself.
  }

  /** True: our lock is gone for certain. */
  async #unlock(step: HookStep): Promise<boolean> {
    const session = this.#session;
    if (session !== undefined && this.#lockedCount !== undefined)
      try {
        await session.send(guarded(countJs('free', '{ fsyncUnlock: 1 }')));
        const half = { ...step, leftMs: () => step.leftMs() / 2 };
        this.#freedCount = (await this.#answer(half, session, 'free', countSchema)).lockCount;
        return true;
      } catch {
        // It may be locked all the same: by another session then.
      }
    await session?.close();
    this.#session = undefined;
    return this.#unlockAnew(step);
  }

  /** By a session of its own; true: it was locked, and was unlocked. */
  async #unlockAnew(step: HookStep): Promise<boolean> {
    const input = `${await this.#login()}${guarded(unlockJs)}\n`;
    const { stdout, stderr } = await this.#run(step, 'exec "$@"', this.#words(), input);
    if (/tm-unlocked \d+/.test(stdout)) return true;
    if (stdout.includes('tm-not-locked')) return false;
    throw this.#says(step, `${stdout}${stderr}`);
  }

  async #answer<Schema extends z.ZodType>(
    step: HookStep,
    session: HeldSession,
    word: string,
    schema: Schema,
  ): Promise<z.infer<Schema>> {
    const text = await session.expect(new RegExp(`tm-(${word}|error) [^\\n]*\\n`), step.leftMs());
    const [, said, rest = ''] = /tm-(\w+) ([^\n]*)\n$/.exec(text) ?? [];
    const parsed = said === word ? schema.safeParse(jsonOf(rest)) : undefined;
    if (parsed?.success === true) return parsed.data;
    throw this.#says(step, rest);
  }

  async #run(step: HookStep, script: string, args: readonly string[], input = ''): Promise<ProgramResult> {
    const result = await step.guest.run(['/bin/sh', '-c', script, 'sh', ...args], { input, timeoutMs: step.leftMs() });
    if (result.exitCode === 0) return result;
    throw this.#says(step, result.stderr.trim() || `${result.stdout.trim()} (${result.exitCode})`);
  }

  #says({ vm }: HookStep, text: string): TidemarkError {
    return new TidemarkError('hook-failed', `MongoDB in ${vm} says: ${text.trim().slice(-500)}`);
  }

  /** The password goes by the input, which no process list shows. */
  async #login(): Promise<string> {
    const { user, passwordFile, authenticationDatabase } = this.settings;
    if (user === undefined || passwordFile === undefined) return '';
    const account = JSON.stringify({ user, pwd: await secretOf(passwordFile) });
    const login = `db.getSiblingDB(${JSON.stringify(authenticationDatabase)}).auth(${account})`;
    return `${guarded(`if (!${login}) throw new Error('Authentication failed.');`)}\n`;
  }

  #words(): string[] {
    const { client, host, port, tlsCaFile } = this.settings;
    const tls = tlsCaFile === undefined ? [] : ['--tls', '--tlsCAFile', tlsCaFile];
    return [client, '--quiet', '--norc', '--host', host, '--port', String(port), ...tls];
  }
}

function countJs(word: string, command: string): string {
  const tell = `print('tm-' + '${word} ' + JSON.stringify({ lockCount: Number(l.lockCount) }));`;
  return `var l = db.getSiblingDB('admin').runCommand(${command}); if (l.ok !== 1) throw l; ${tell}`;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export const mongodb: HookModule<'mongodb'> = {
  kind: 'mongodb',
  document: mongodbDocument,
  create: (settings) => new MongoDb(settings),
};
