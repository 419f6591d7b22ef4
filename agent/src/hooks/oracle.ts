/**
 * oracle: a checkpoint outside of the hold, so that little is to be recovered, and the order of writes over all files; with
 * `hot-backup` the database is in backup mode at the mark, too. Backup mode does not end with a session, nor with the
 * instance: a mark in the guest, made before it and gone after it, tells that it is ours. It stands on the guest's disk,
 * so that it is in the recovered VM as well.
 */
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { Hook, HookModule, HookStep, Prepared, Verified } from './hook.js';
import { oracleDocument } from './oracle-document.js';
import {
  databaseOf,
  databaseSql,
  factsSql,
  findingsOf,
  stateOf,
  stateSql,
  type DatabaseFacts,
  type Rows,
  type State,
} from './oracle-facts.js';
import { secretOf } from './secret-file.js';
import type { HookSettingsOf } from './settings.js';

type Settings = HookSettingsOf<'oracle'>;

const checkpointSql = 'ALTER SYSTEM CHECKPOINT;';
const archiveSql = 'ALTER SYSTEM ARCHIVE LOG CURRENT;';
const beginSql = 'ALTER DATABASE BEGIN BACKUP;';
const endSql = 'ALTER DATABASE END BACKUP;';
const openSql = 'ALTER DATABASE OPEN;';

/** The instance does not run. */
const isDown = /ORA-(01034|27101|12514|01092)/;
const failure = /^(?!tm-).*\b(?:ORA|SP2|TNS)-\d+.*$/m;
const form = `WHENEVER SQLERROR EXIT 9
WHENEVER OSERROR EXIT 9
SET HEADING OFF FEEDBACK OFF PAGESIZE 0 LINESIZE 32767 TRIMOUT ON TAB OFF ECHO OFF VERIFY OFF DEFINE OFF`;
/** `sh make|look|drop FILE` */
const markScript = `case $1 in
  make) mkdir -p -m 700 "\${2%/*}" && : >"$2" && sync -f "$2" ;;
  look) [ ! -e "$2" ] || echo marked ;;
  drop) rm -f "$2" && sync -f "\${2%/*}" ;;
esac`;

class Oracle implements Hook {
  #quiet: { readonly state: State; readonly database: DatabaseFacts } | undefined;
  #mayBeInBackup = false;
  #ended: State | undefined;

  constructor(private readonly settings: Settings) {}

  async prepare(step: HookStep): Promise<Prepared> {
    await this.#endOurs(step);
    const rows = await this.#sql(step, factsSql);
    const findings = await findingsOf(step, rows, this.settings);
    if (findings.length > 0) return { findings };
    const isArchived = databaseOf(rows).logMode === 'ARCHIVELOG';
    await this.#sql(step, `${isArchived ? `${archiveSql}\n` : ''}${checkpointSql}`);
    return { findings: [] };
  }

  async quiesce(step: HookStep): Promise<void> {
    const isHot = this.settings.mode === 'hot-backup';
    if (isHot) {
      await this.#mark(step, 'make');
      this.#mayBeInBackup = true;
    }
    const rows = await this.#sql(step, `${isHot ? `${beginSql}\n` : ''}${stateSql}\n${databaseSql}`);
    const state = stateOf(rows);
    if (isHot && state.activeCount === 0)
      throw new TidemarkError('hook-failed', `No data file of Oracle in ${step.vm} is in backup mode.`);
    this.#quiet = { state, database: databaseOf(rows) };
  }

  async release(step: HookStep): Promise<void> {
    if (!this.#mayBeInBackup) return;
    const before = stateOf(await this.#sql(step, stateSql));
    if (before.activeCount > 0) await this.#sql(step, endSql);
    this.#mayBeInBackup = false;
    // When it is not known how BEGIN BACKUP ended, it may still begin: the mark stays for the next prepare or undo.
    if (this.#quiet === undefined) return;
    this.#ended = before;
    await this.#mark(step, 'drop');
  }

  async verify(step: HookStep): Promise<Verified> {
    const quiet = this.#quiet;
    if (quiet === undefined) throw new TidemarkError('hook-failed', 'It was never quiesced.');
    const isHot = this.settings.mode === 'hot-backup';
    const rows = await this.#sql(step, `${isHot ? `${archiveSql}\n` : ''}${stateSql}\n${databaseSql}`);
    const [state, database] = [stateOf(rows), databaseOf(rows)];
    const broken = (code: string, reason: string): Verified => ({ findings: [{ code, reason }], verifiedBy: [] });
    if (state.startedAt !== quiet.state.startedAt || database.scn < quiet.database.scn)
      return broken('restarted', `the instance was started anew at ${state.startedAt}, in the middle of the hold`);
    const { activeCount, backupScn } = quiet.state;
    const ended = this.#ended;
    if (isHot && (ended?.activeCount !== activeCount || ended.backupScn !== backupScn))
      return broken('backup-mode-lost', 'not all data files were in backup mode until the release');
    if (state.activeCount > 0) return broken('in-backup-mode', `${state.activeCount} data files are in backup mode`);
    const { scn, checkpointScn } = quiet.database;
    return {
      findings: [],
      verifiedBy: [
        `SCN ${scn}, checkpoint ${checkpointScn}, instance of ${state.startedAt}`,
        ...(isHot ? [`${activeCount} data files in backup mode from SCN ${backupScn} until the release`] : []),
      ],
      facts: { scn: String(scn), checkpointScn: String(checkpointScn) },
    };
  }

  async undo(step: HookStep): Promise<string[]> {
    try {
      return await this.#endOurs(step);
    } catch (error) {
      // Where no instance runs nothing can be ended; the mark stays, and the next prepare ends it.
      if (isTidemarkError(error, 'hook-failed') && isDown.test(error.message)) return [];
      throw error;
    }
  }

  async afterRecovery(step: HookStep): Promise<void> {
    await this.#endOurs(step);
  }

  /** Ends a backup mode that is ours; an instance that could not be opened for it is opened. */
  async #endOurs(step: HookStep): Promise<string[]> {
    if (this.settings.mode !== 'hot-backup' || !(await this.#mark(step, 'look'))) return [];
    const { activeCount, status } = stateOf(await this.#sql(step, stateSql));
    if (activeCount > 0) await this.#sql(step, status === 'MOUNTED' ? `${endSql}\n${openSql}` : endSql);
    await this.#mark(step, 'drop');
    return activeCount > 0 ? [`ended the backup mode of ${activeCount} data files of Oracle`] : [];
  }

  async #mark(step: HookStep, verb: 'make' | 'look' | 'drop'): Promise<boolean> {
    const file = `/var/lib/tidemark/oracle-${this.settings.sid}`;
    const { exitCode, stdout, stderr } = await step.guest.run(['/bin/sh', '-c', markScript, 'sh', verb, file], {
      timeoutMs: step.leftMs(),
    });
    if (exitCode === 0) return stdout.trim() === 'marked';
    throw new TidemarkError('hook-failed', `${file} in ${step.vm}: ${stderr.trim().slice(-300) || exitCode}`);
  }

  /** Runs the statements in one session, up to the first that fails; rows of what they answer. */
  async #sql(step: HookStep, sql: string): Promise<Rows> {
    const { home, sid, osUser } = this.settings;
    const program = [`${home}/bin/sqlplus`, '-S', '-L', '/nolog'];
    const words = osUser === '' ? program : ['runuser', '-u', osUser, '--', ...program];
    const { exitCode, stdout, stderr } = await step.guest.run(['/bin/sh', '-c', 'cd / && exec "$@"', 'sh', ...words], {
      input: `${form}\nCONNECT ${await this.#account()} AS SYSDBA\n${sql}\nEXIT\n`,
      environment: { ORACLE_SID: sid, ORACLE_HOME: home, NLS_LANG: 'AMERICAN_AMERICA.AL32UTF8' },
      timeoutMs: step.leftMs(),
    });
    const wrong = failure.exec(stdout)?.[0];
    if (exitCode !== 0 || wrong !== undefined)
      throw new TidemarkError(
        'hook-failed',
        `Oracle in ${step.vm} says: ${(wrong ?? (stderr.trim() || String(exitCode))).slice(0, 500)}`,
      );
    const lines = stdout.split('\n').map((line) => line.trimEnd());
    return lines.filter((line) => line.startsWith('tm-')).map((line) => line.split('|'));
  }

  /** By the input, which no process list shows. */
  async #account(): Promise<string> {
    const { user, passwordFile } = this.settings;
    if (user === undefined || passwordFile === undefined) return '/';
    const password = await secretOf(passwordFile);
    if (/["\r\n]/.test(password))
      throw new TidemarkError('config-invalid', 'A password of Oracle has no quotation mark in it.', {
        path: 'hooks.vms',
      });
    return `${user}/"${password}"`;
  }
}

export const oracle: HookModule<'oracle'> = {
  kind: 'oracle',
  document: oracleDocument,
  create: (settings) => new Oracle(settings),
};
