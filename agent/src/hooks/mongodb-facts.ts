/** What MongoDB says of itself, and what of it breaks the promise. */
import { posix } from 'node:path';
import { z } from 'zod';
import type { Finding } from './hook.js';
import type { HookSettingsOf } from './settings.js';

export const mongodbFactsSchema = z.object({
  isMongos: z.boolean(),
  clusterRole: z.string(),
  setName: z.string(),
  members: z.number(),
  isPrimary: z.boolean(),
  isSecondary: z.boolean(),
  engine: z.string(),
  journal: z.boolean(),
  isLocked: z.boolean(),
  dbPath: z.string(),
  version: z.string().regex(/^\d+\.\d+\.\d+/),
});
export type MongodbFacts = z.infer<typeof mongodbFactsSchema>;

/** One line for the shell; prints {@link mongodbFactsSchema} as JSON. */
export const factsJs = `var a = db.getSiblingDB('admin'); var h = a.runCommand({ hello: 1 });
var s = a.runCommand({ serverStatus: 1 }); var o = a.runCommand({ getCmdLineOpts: 1 }).parsed || {}; var t = o.storage || {};
if (s.ok !== 1) throw s;
print('tm-' + 'facts ' + JSON.stringify({ isMongos: h.msg === 'isdbgrid', clusterRole: (o.sharding || {}).clusterRole || '',
setName: h.setName || '', members: (h.hosts || []).length + (h.passives || []).length,
isPrimary: h.isWritablePrimary === true, isSecondary: h.secondary === true, engine: (s.storageEngine || {}).name || '',
journal: (t.journal || {}).enabled !== false, isLocked: a.runCommand({ currentOp: 1 }).fsyncLock === true,
dbPath: t.dbPath || '/data/db', version: s.version }));`.replaceAll('\n', ' ');

/** From here on a lock can be given a limit; without one it would wait in front of users. */
const versionMin = [7, 0, 2];

export function findingsOf(facts: MongodbFacts, { lockPrimary }: HookSettingsOf<'mongodb'>): Finding[] {
  const { isMongos, clusterRole, setName, members, isPrimary, isSecondary, engine, journal, isLocked } = facts;
  if (isMongos) return [{ code: 'mongos', reason: 'this is mongos, which keeps no data; hook each server by itself' }];
  const findings: Finding[] = [];
  const find = (code: string, reason: string): void => void findings.push({ code, reason });
  if (clusterRole !== '')
    find(
      'sharded-cluster',
      `the server is ${clusterRole} of a sharded cluster, whose balancer moves data between servers`,
    );
  if (isBefore(facts.version, versionMin))
    find('version', `the server is MongoDB ${facts.version}, whose lock would wait without limit; 7.0.2 or later`);
  if (engine !== 'wiredTiger') find('storage-engine', `the storage engine is ${engine || 'unknown'}, not wiredTiger`);
  if (!journal) find('journal-off', 'storage.journal.enabled is false; set it true');
  if (setName !== '' && !isPrimary && !isSecondary)
    find('not-ready', `the server is neither primary nor secondary of ${setName} now`);
  if (isPrimary && members > 1 && !lockPrimary)
    find('primary', `the server is the primary of ${setName}, whose writes its lock would stop; hook a secondary`);
  if (isLocked) find('locked-by-others', 'somebody else holds an fsyncLock on the server');
  return findings;
}

/** The journal may be a link to another disk. */
export function pathsOf({ dbPath }: MongodbFacts): string[] {
  return [dbPath, posix.join(dbPath, 'journal')];
}

function isBefore(version: string, limit: readonly number[]): boolean {
  const parts = version.split(/[.-]/).map(Number);
  const at = limit.findIndex((part, index) => parts[index] !== part);
  return at >= 0 && !(parts[at]! > limit[at]!);
}
