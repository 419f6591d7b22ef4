/** mariadb: BACKUP STAGE up to BLOCK_COMMIT in one held session. */
import type { HookModule } from './hook.js';
import { InnoDb, type InnoDbDialect } from './innodb.js';
import { mariadbDocument } from './mariadb-document.js';

const variable = (name: string): string =>
  `(SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_VARIABLES WHERE VARIABLE_NAME = '${name}')`;
const status = (name: string): string =>
  `(SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = '${name}')`;

export const mariadbDialect: InnoDbDialect = {
  product: 'MariaDB',
  factsSql: `SELECT JSON_OBJECT(
  'flushAtCommit', @@GLOBAL.innodb_flush_log_at_trx_commit,
  'binlog', IF(@@GLOBAL.log_bin, 1, 0), 'syncBinlog', @@GLOBAL.sync_binlog,
  'doublewrite', ${variable('INNODB_DOUBLEWRITE')}, 'flushMethod', ${variable('INNODB_FLUSH_METHOD')}, 'redoLog', 'ON',
  'replica', IF(${status('SLAVES_RUNNING')} > 0, 1, 0) + IF(COALESCE(${variable('WSREP_ON')}, 'OFF') = 'ON', 1, 0),
  'otherTables', JSON_COMPACT((SELECT COALESCE(JSON_ARRAYAGG(name), '[]') FROM (
    SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME, ' (', ENGINE, ')') AS name FROM information_schema.TABLES
      WHERE TABLE_TYPE = 'BASE TABLE' AND ENGINE NOT IN ('InnoDB', 'MEMORY', 'BLACKHOLE')
        AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') LIMIT 20) AS found)),
  'dataDirectory', @@GLOBAL.datadir, 'dataHome', @@GLOBAL.innodb_data_home_dir,
  'dataFiles', @@GLOBAL.innodb_data_file_path,
  'others', JSON_ARRAY(@@GLOBAL.innodb_log_group_home_dir, @@GLOBAL.innodb_undo_directory,
    @@GLOBAL.aria_log_dir_path, LEFT(@@GLOBAL.log_bin_basename,
      LENGTH(@@GLOBAL.log_bin_basename) - LENGTH(SUBSTRING_INDEX(@@GLOBAL.log_bin_basename, '/', -1)))),
  'tablespaces', JSON_COMPACT((SELECT COALESCE(JSON_ARRAYAGG(FILENAME), '[]')
    FROM information_schema.INNODB_SYS_TABLESPACES WHERE FILENAME LIKE '/%')))`,
  redoBytesSql: `CAST(${status('INNODB_CHECKPOINT_AGE')} AS UNSIGNED)`,
  uptimeSql: status('UPTIME'),
  holdSql: 'BACKUP STAGE START; BACKUP STAGE FLUSH; BACKUP STAGE BLOCK_DDL; BACKUP STAGE BLOCK_COMMIT',
  freeSql: 'BACKUP STAGE END',
};

export const mariadb: HookModule<'mariadb'> = {
  kind: 'mariadb',
  document: mariadbDocument,
  create: (settings) => new InnoDb(settings, mariadbDialect),
};
