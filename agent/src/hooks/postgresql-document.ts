/** What the PostgreSQL hook promises and runs. */
import type { HookDocument } from './hook.js';

const docs = 'https://www.postgresql.org/docs/current';

export const postgresqlDocument: HookDocument = {
  promise:
    'Every transaction that was acknowledged before the hold is in the point, none that was begun after it. A start replays the log from the last checkpoint, which was made just before: a running PostgreSQL always replays something, and here it is little. Unlogged tables are emptied by any such start. Nothing is locked by this hook; with fsfreeze in the same VM no write is half done at the mark either.',
  findings: {
    'fsync-off': 'fsync is off: what is acknowledged may not be on the disk.',
    'synchronous-commit-off':
      'synchronous_commit is off, for all or for a role or database: commits are acknowledged early.',
    'full-page-writes-off': 'full_page_writes is off: a page that was half written cannot be repaired by replay.',
    standby: 'The server is a standby: it cannot commit, and what it replays is decided elsewhere.',
    'data-unprotected': 'The data directory, its log or a tablespace lies on no captured disk of the group.',
    restarted: 'The server was restarted between the quiesce and the end of the hold.',
  },
  statements: [
    {
      step: 'prepare',
      statement:
        "SELECT current_setting('fsync'), current_setting('full_page_writes'), … FROM pg_db_role_setting, pg_tablespace",
      why: 'Findings; where its data lies.',
      source: `${docs}/runtime-config-wal.html`,
    },
    {
      step: 'prepare',
      statement: 'CHECKPOINT',
      why: 'Outside of the hold: all dirty pages are written, and replay begins here. Repeated while more than redoBytesMax would be replayed.',
      source: `${docs}/sql-checkpoint.html`,
    },
    {
      step: 'prepare',
      statement: 'SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), redo_lsn) FROM pg_control_checkpoint()',
      why: 'What a start would replay now.',
      source: `${docs}/functions-info.html#FUNCTIONS-INFO-CONTROLDATA`,
    },
    {
      step: 'quiesce',
      statement: "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'tidemark', '<checkpoint>')",
      why: 'A commit that writes nothing but a note into the log; when it returns, the log up to it, and with it every earlier commit, is flushed.',
      source: `${docs}/functions-admin.html#FUNCTIONS-REPLICATION`,
    },
    {
      step: 'quiesce',
      statement: 'SELECT pg_current_wal_flush_lsn()',
      why: 'Is beyond the note: proven, not believed.',
      source: `${docs}/functions-admin.html#FUNCTIONS-ADMIN-BACKUP`,
    },
    {
      step: 'verify',
      statement: 'SELECT pg_postmaster_start_time(), pg_current_wal_flush_lsn()',
      why: 'The same start of the server, and its log did not go back.',
      source: `${docs}/functions-info.html#FUNCTIONS-INFO-SESSION`,
    },
  ],
  testedAgainst: 'real',
};
