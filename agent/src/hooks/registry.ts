/** All kinds of hooks. */
import { command } from './command.js';
import { fsfreeze } from './fsfreeze.js';
import type { Hook, HookModule } from './hook.js';
import { mariadb } from './mariadb.js';
import { mongodb } from './mongodb.js';
import { mysql } from './mysql.js';
import { oracle } from './oracle.js';
import { postgresql } from './postgresql.js';
import { redis } from './redis.js';
import { sapHana } from './sap-hana.js';
import type { HookKind, HookSettings } from './settings.js';
import { exchange, sharepoint, sqlserver, windows } from './vss.js';

export const hookModules: { readonly [Kind in HookKind]: HookModule<Kind> } = {
  fsfreeze,
  command,
  postgresql,
  mariadb,
  mysql,
  redis,
  mongodb,
  oracle,
  'sap-hana': sapHana,
  windows,
  sqlserver,
  exchange,
  sharepoint,
};

/** A new instance for one attempt. */
export function createHook<Kind extends HookKind>(settings: Extract<HookSettings, { kind: Kind }>): Hook {
  const module: HookModule<Kind> = hookModules[settings.kind as Kind];
  return module.create(settings);
}
