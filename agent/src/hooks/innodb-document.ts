/** What the hooks of MariaDB and MySQL have in common in their documents. */
export const innodbPromise =
  'Every transaction that was acknowledged before the hold is in the point, none that was begun after it; commits wait meanwhile, reads do not. InnoDB replays its log from its last checkpoint, as after any stop without a shutdown; dirty pages are written just before, so that it is little. MEMORY tables are emptied by any start.';

export const innodbFindings = {
  'commits-not-flushed':
    'innodb_flush_log_at_trx_commit is neither 1 nor 3: what is acknowledged may not be on the disk.',
  'binlog-not-flushed': 'The binary log is on and sync_binlog is not 1: it may lack what the tables have.',
  'doublewrite-off': 'innodb_doublewrite is off: a page that was half written cannot be repaired by replay.',
  'fsync-off': 'innodb_flush_method flushes nothing.',
  'redo-log-off': 'The redo log is disabled (MySQL): nothing can be replayed.',
  'not-innodb':
    'Tables of MyISAM, Aria or another engine: they are not crash-safe. The tables of mysql, sys and the schemas do not count.',
  replica:
    'The server applies the changes of another one, or is a member of a cluster: what is acknowledged is decided elsewhere.',
  'data-unprotected': 'Data, redo, undo, binary logs or a tablespace lie on no captured disk of the group.',
  'session-lost': 'The session that held did not answer after the hold, or the server was started anew meanwhile.',
};
