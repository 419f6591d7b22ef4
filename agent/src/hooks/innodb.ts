/**
 * MariaDB and MySQL: InnoDB's dirty pages are driven down outside of the hold; then one session, opened before the hold,
 * takes the lock that keeps commits out, and lets go of it. The same session must answer after the release: a lock of a
 * connection is lost only with it.
 *
 * Dirty pages are driven down by a lower innodb_max_dirty_pages_pct, and the limit below which none are written. While
 * they are lowered they are a millionth of what they were: so the server itself keeps what to restore, and an agent that
 * finds such a value after a death (undo) knows.
 */
import { sleep } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { HeldSession } from './guest-session.js';
import type { Hook, HookStep, Prepared, Verified } from './hook.js';
import { findingsOf, pathsOf, serverFactsSchema } from './innodb-facts.js';
import { InnoDbClient, loweredSchema, redoSchema } from './innodb-client.js';
import type { InnoDbSettings } from './innodb-settings.js';

/** Where the two products differ. */
export interface InnoDbDialect {
  readonly product: string;
  /** One row: JSON as {@link serverFactsSchema}. */
  readonly factsSql: string;
  /** A number: what a start would replay now. */
  readonly redoBytesSql: string;
  /** A number: seconds since the server's start. */
  readonly uptimeSql: string;
  /** Takes the lock, in the held session. */
  readonly holdSql: string;
  readonly freeSql: string;
}

const limits = ['innodb_max_dirty_pages_pct_lwm', 'innodb_max_dirty_pages_pct'];
/** The lower one first, for it may not be above the other. */
export const lowerSql = limits
  .map((name) => `SET GLOBAL ${name} = IF(@@GLOBAL.${name} < 0.001, @@GLOBAL.${name}, @@GLOBAL.${name} / 1000000)`)
  .join(';\n');
export const restoreSql = [...limits]
  .reverse()
  .map(
    (name) =>
      `SET GLOBAL ${name} = IF(@@GLOBAL.${name} < 0.001, ROUND(@@GLOBAL.${name} * 1000000, 6), @@GLOBAL.${name})`,
  )
  .join(';\n');
const isLoweredSql = `SELECT JSON_OBJECT('isLowered', IF(@@GLOBAL.${limits[1]} > 0 AND @@GLOBAL.${limits[1]} < 0.001, 1, 0))`;

const lookMs = 100;
/** What the rest of prepare needs; the limits are restored within it, also when the step was called off. */
const spareMs = 5000;
const idleSeconds = 900;
const holdPattern = /^tm-held (\d+) (\d+) (\d+)$/m;
const freePattern = /^tm-free (\d+) (\d+)$/m;

interface Moment {
  readonly connection: string;
  readonly uptimeSeconds: number;
}

export class InnoDb implements Hook {
  readonly #client: InnoDbClient;
  #session: HeldSession | undefined;
  #held: (Moment & { readonly redoBytes: number }) | undefined;
  #freed: Moment | undefined;

  constructor(
    private readonly settings: InnoDbSettings,
    private readonly dialect: InnoDbDialect,
  ) {
    this.#client = new InnoDbClient(settings, dialect.product);
  }

  async prepare(step: HookStep): Promise<Prepared> {
    const facts = await this.#client.ask(step, this.dialect.factsSql, serverFactsSchema);
    const findings = [...findingsOf(facts), ...(await step.unprotected(pathsOf(facts)))];
    if (findings.length > 0) return { findings };
    await this.#flush(step);
    this.#session = await this.#client.open(
      step,
      `SET SESSION lock_wait_timeout = ${this.settings.lockWaitSeconds}, wait_timeout = ${idleSeconds};
SELECT CONCAT('tm-open ', CONNECTION_ID());`,
    );
    await this.#session.expect(/^tm-open \d+$/m, step.leftMs());
    return { findings: [] };
  }

  async quiesce(step: HookStep): Promise<void> {
    const { holdSql, uptimeSql, redoBytesSql, product } = this.dialect;
    const session = this.#session;
    if (session === undefined) throw new TidemarkError('hook-failed', `${product} in ${step.vm} has no session.`);
    const tell = `SELECT CONCAT('tm-held ', CONNECTION_ID(), ' ', ${uptimeSql}, ' ', ${redoBytesSql})`;
    await session.send(`${holdSql}; ${tell};`);
    const [, connection = '', uptime, redo] = holdPattern.exec(await session.expect(holdPattern, step.leftMs())) ?? [];
    this.#held = { connection, uptimeSeconds: Number(uptime), redoBytes: Number(redo) };
  }

  async release(step: HookStep): Promise<void> {
    const session = this.#session;
    if (session === undefined || this.#freed !== undefined) return;
    if (this.#held !== undefined)
      try {
        const { freeSql, uptimeSql } = this.dialect;
        await session.send(`${freeSql}; SELECT CONCAT('tm-free ', CONNECTION_ID(), ' ', ${uptimeSql});`);
        const text = await session.expect(freePattern, step.leftMs() / 2);
        const [, connection = '', uptime] = freePattern.exec(text) ?? [];
        this.#freed = { connection, uptimeSeconds: Number(uptime) };
        return;
      } catch {
        // What it held goes with it; that it cannot be proven is for verify to say.
      }
    await session.close();
    this.#session = undefined;
  }

  async verify(): Promise<Verified> {
    const [held, freed] = [this.#held, this.#freed];
    if (
      held === undefined ||
      freed === undefined ||
      held.connection !== freed.connection ||
      freed.uptimeSeconds < held.uptimeSeconds
    )
      return {
        findings: [
          { code: 'session-lost', reason: `the session of ${this.dialect.product} did not stay open over the hold` },
        ],
        verifiedBy: [],
      };
    return {
      findings: [],
      verifiedBy: [`${this.dialect.product} connection ${held.connection} held and let go`],
      facts: { innodbRedoBytes: held.redoBytes },
    };
  }

  async undo(step: HookStep): Promise<string[]> {
    if (!(await this.#isLowered(step))) return [];
    await this.#client.run(step, restoreSql);
    return [`restored innodb_max_dirty_pages_pct of ${this.dialect.product}`];
  }

  async afterRecovery(): Promise<void> {
    // It replays its log by itself, and its limits are those of its files again.
  }

  async #isLowered(step: HookStep): Promise<boolean> {
    try {
      return (await this.#client.ask(step, isLoweredSql, loweredSchema)).isLowered === 1;
    } catch (error) {
      // A server that does not run holds nothing, and starts with the limits of its files.
      if (isTidemarkError(error, 'hook-failed') && error.message.includes('ERROR 2002')) return false;
      throw error;
    }
  }

  /** Until little would be replayed, or the time for it is over. */
  async #flush(step: HookStep): Promise<void> {
    const { flushSecondsMax, redoBytesMax } = this.settings;
    const untilMs = step.clock.monotonicMs() + Math.min(flushSecondsMax * 1000, step.leftMs() - spareMs);
    const lookSql = `SELECT JSON_OBJECT('redoBytes', ${this.dialect.redoBytesSql})`;
    const redoBytes = async (sql = lookSql): Promise<number> =>
      (await this.#client.ask(step, sql, redoSchema)).redoBytes;
    if ((await redoBytes()) <= redoBytesMax) return;
    try {
      let left = await redoBytes(`${lowerSql};\n${lookSql}`);
      while (left > redoBytesMax && step.clock.monotonicMs() < untilMs && !step.signal.aborted) {
        await sleep(step.clock, lookMs);
        left = await redoBytes();
      }
    } finally {
      await this.#client.run({ ...step, leftMs: () => spareMs }, restoreSql);
    }
  }
}
