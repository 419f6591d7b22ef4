/** mysql: LOCK INSTANCE FOR BACKUP and FLUSH TABLES WITH READ LOCK in one held session. */
import type { HookModule } from './hook.js';
import { InnoDb, type InnoDbDialect } from './innodb.js';
import { mysqlDocument } from './mysql-document.js';

const status = (name: string): string =>
  `(SELECT VARIABLE_VALUE FROM performance_schema.global_status WHERE VARIABLE_NAME = '${name}')`;

export const mysqlDialect: InnoDbDialect = {
  product: 'MySQL',
  factsSql: `SELECT JSON_OBJECT(
  'flushAtCommit', @@GLOBAL.innodb_flush_log_at_trx_commit,
  'binlog', IF(@@GLOBAL.log_bin, 1, 0), 'syncBinlog', @@GLOBAL.sync_binlog,
  'doublewrite', CONCAT(@@GLOBAL.innodb_doublewrite, ''), 'flushMethod', @@GLOBAL.innodb_flush_method,
  'redoLog', ${status('Innodb_redo_log_enabled')},
  'replica', (SELECT COUNT(*) FROM performance_schema.replication_applier_status WHERE SERVICE_STATE = 'ON'),
  'otherTables', (SELECT COALESCE(JSON_ARRAYAGG(name), JSON_ARRAY()) FROM (
    SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME, ' (', ENGINE, ')') AS name FROM information_schema.TABLES
      WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE NOT IN ('InnoDB', 'MEMORY', 'BLACKHOLE')
        AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') LIMIT 20) AS found),
  'dataDirectory', @@GLOBAL.datadir, 'dataHome', @@GLOBAL.innodb_data_home_dir,
  'dataFiles', @@GLOBAL.innodb_data_file_path,
  'others', JSON_ARRAY(@@GLOBAL.innodb_log_group_home_dir, @@GLOBAL.innodb_undo_directory,
    @@GLOBAL.innodb_doublewrite_dir, LEFT(@@GLOBAL.log_bin_basename,
      LENGTH(@@GLOBAL.log_bin_basename) - LENGTH(SUBSTRING_INDEX(@@GLOBAL.log_bin_basename, '/', -1)))),
  'tablespaces', (SELECT COALESCE(JSON_ARRAYAGG(FILE_NAME), JSON_ARRAY()) FROM information_schema.FILES
    WHERE FILE_TYPE = 'TABLESPACE' AND FILE_NAME LIKE '/%'))`,
  redoBytesSql: `(${status('Innodb_redo_log_current_lsn')} - ${status('Innodb_redo_log_checkpoint_lsn')})`,
  uptimeSql: status('Uptime'),
  holdSql: 'LOCK INSTANCE FOR BACKUP; FLUSH TABLES WITH READ LOCK',
  freeSql: 'UNLOCK TABLES; UNLOCK INSTANCE',
};

export const mysql: HookModule<'mysql'> = {
  kind: 'mysql',
  document: mysqlDocument,
  create: (settings) => new InnoDb(settings, mysqlDialect),
};
