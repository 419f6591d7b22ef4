/**
 * sap-hana: a database snapshot of the whole system (system database and all tenants) is prepared before the hold; it holds
 * nobody. It is in the data area at the mark, with the log area of the same moment, and is closed when the point is proven
 * or given up: one that stays prepared keeps pages from being freed, and any other snapshot out.
 */
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { Hook, HookModule, HookStep, Prepared, Verified } from './hook.js';
import { sapHanaDocument } from './sap-hana-document.js';
import { comment, factsSql, findingsOf, stateOf, stateSql, type Rows, type State } from './sap-hana-facts.js';
import type { HookSettingsOf } from './settings.js';

type Settings = HookSettingsOf<'sap-hana'>;

const createSql = `BACKUP DATA FOR FULL SYSTEM CREATE SNAPSHOT COMMENT '${comment}'`;
/** The key stands in the home directory of the user. */
const script = `cd / && HOME=$(getent passwd "$1" | cut -d: -f6) && export HOME && shift && exec "$@"`;
/** Nobody listens. */
const isDown = /-10709:/;

class SapHana implements Hook {
  #prepared: State | undefined;
  #mayBeOpen = false;
  #isQuiet = false;

  constructor(private readonly settings: Settings) {}

  async prepare(step: HookStep): Promise<Prepared> {
    const rows = await this.#sql(step, factsSql);
    const findings = await findingsOf(step, rows);
    if (findings.length > 0) return { findings };
    await this.#closeOurs(step, stateOf(rows), 'left behind');
    this.#mayBeOpen = true;
    await this.#sql(step, createSql);
    const state = await this.#state(step);
    if (state.snapshot?.isOurs !== true)
      throw new TidemarkError('hook-failed', `SAP HANA in ${step.vm} has no prepared snapshot after it made one.`);
    this.#prepared = state;
    return { findings: [] };
  }

  async quiesce(step: HookStep): Promise<void> {
    const id = this.#prepared?.snapshot?.id;
    const now = (await this.#state(step)).snapshot?.id;
    if (id === undefined || now !== id)
      throw new TidemarkError('hook-failed', `The snapshot ${id} of SAP HANA in ${step.vm} is not prepared any more.`);
    this.#isQuiet = true;
  }

  async release(): Promise<void> {
    // The snapshot holds nobody; verify or abandon closes it.
  }

  async verify(step: HookStep): Promise<Verified> {
    const prepared = this.#prepared;
    if (!this.#isQuiet || prepared?.snapshot === undefined)
      throw new TidemarkError('hook-failed', 'It was never quiesced.');
    const state = await this.#state(step);
    const { id } = prepared.snapshot;
    const broken = (code: string, reason: string): Verified => ({ findings: [{ code, reason }], verifiedBy: [] });
    if (state.startedAt !== prepared.startedAt)
      return broken('restarted', `SAP HANA was started anew at ${state.startedAt}, in the middle of the hold`);
    if (state.snapshot?.id !== id) return broken('snapshot-lost', `the snapshot ${id} is not prepared any more`);
    await this.#close(step, id, this.settings.isBackup ? 'SUCCESSFUL' : 'UNSUCCESSFUL', 'application checkpoint');
    this.#mayBeOpen = false;
    return {
      findings: [],
      verifiedBy: [`data snapshot ${id} prepared from before the hold to its end, started ${state.startedAt}`],
      facts: { hanaBackupId: id },
    };
  }

  async abandon(step: HookStep): Promise<void> {
    if (!this.#mayBeOpen) return;
    await this.#closeOurs(step, await this.#state(step), 'no application checkpoint');
    this.#mayBeOpen = false;
  }

  async undo(step: HookStep): Promise<string[]> {
    try {
      return await this.#closeOurs(step, await this.#state(step), 'left behind');
    } catch (error) {
      // The next prepare looks for it, too.
      if (isTidemarkError(error, 'hook-failed') && isDown.test(error.message)) return [];
      throw error;
    }
  }

  async afterRecovery(step: HookStep): Promise<void> {
    await this.#closeOurs(step, await this.#state(step), 'recovered');
  }

  async #closeOurs(step: HookStep, { snapshot }: State, why: string): Promise<string[]> {
    if (snapshot?.isOurs !== true) return [];
    await this.#close(step, snapshot.id, 'UNSUCCESSFUL', why);
    return [`closed the data snapshot ${snapshot.id} of SAP HANA`];
  }

  async #close(step: HookStep, id: string, how: 'SUCCESSFUL' | 'UNSUCCESSFUL', why: string): Promise<void> {
    await this.#sql(step, `BACKUP DATA FOR FULL SYSTEM CLOSE SNAPSHOT BACKUP_ID ${id} ${how} '${comment}: ${why}'`);
  }

  async #state(step: HookStep): Promise<State> {
    return stateOf(await this.#sql(step, stateSql));
  }

  /** One statement; rows of its answer. */
  async #sql(step: HookStep, sql: string): Promise<Rows> {
    const { sid, instance, key } = this.settings;
    const user = `${sid.toLowerCase()}adm`;
    const program = [`/usr/sap/${sid}/HDB${instance}/exe/hdbsql`, '-U', key, '-a', '-x', '-j', sql];
    const words = ['/bin/sh', '-c', script, 'sh', user, 'runuser', '-u', user, '--', ...program];
    const { exitCode, stdout, stderr } = await step.guest.run(words, { timeoutMs: step.leftMs() });
    if (exitCode !== 0)
      throw new TidemarkError(
        'hook-failed',
        `SAP HANA in ${step.vm} says: ${(stderr.trim() || stdout.trim()).slice(-500) || exitCode}`,
      );
    const lines = stdout.split('\n').map((line) => line.trim().replace(/^"(.*)"$/, '$1'));
    return lines.filter((line) => line.startsWith('tm-')).map((line) => line.split('|'));
  }
}

export const sapHana: HookModule<'sap-hana'> = {
  kind: 'sap-hana',
  document: sapHanaDocument,
  create: (settings) => new SapHana(settings),
};
