/** What a server with InnoDB says of its settings, and what of it breaks the promise. */
import { posix } from 'node:path';
import { z } from 'zod';
import type { Finding } from './hook.js';

export const serverFactsSchema = z.object({
  flushAtCommit: z.number(),
  binlog: z.number(),
  syncBinlog: z.number(),
  doublewrite: z.string(),
  flushMethod: z.string(),
  redoLog: z.string(),
  /** Threads that apply another server's changes, and membership in a cluster. */
  replica: z.number(),
  otherTables: z.array(z.string()),
  dataDirectory: z.string(),
  dataHome: z.string().nullable(),
  dataFiles: z.string(),
  others: z.array(z.string().nullable()),
  tablespaces: z.array(z.string()),
});
export type ServerFacts = z.infer<typeof serverFactsSchema>;

/** Every commit is flushed; 3 flushes twice. */
const durableCommits = [1, 3];
const repairing = /^(1|on|fast|detect_and_recover)$/i;
const unsafeFlush = /^(nosync|littlesync)$/i;

export function findingsOf(facts: ServerFacts): Finding[] {
  const { flushAtCommit, binlog, syncBinlog, doublewrite, flushMethod, redoLog, replica, otherTables } = facts;
  const findings: Finding[] = [];
  const find = (code: string, reason: string): void => void findings.push({ code, reason });
  if (!durableCommits.includes(flushAtCommit))
    find('commits-not-flushed', `innodb_flush_log_at_trx_commit is ${flushAtCommit}; set it 1`);
  if (binlog !== 0 && syncBinlog !== 1)
    find('binlog-not-flushed', `sync_binlog is ${syncBinlog} and the binary log is on; set it 1`);
  if (!repairing.test(doublewrite)) find('doublewrite-off', `innodb_doublewrite is ${doublewrite}; set it ON`);
  if (unsafeFlush.test(flushMethod)) find('fsync-off', `innodb_flush_method is ${flushMethod}, which flushes nothing`);
  if (redoLog !== 'ON') find('redo-log-off', `the redo log of InnoDB is ${redoLog}; enable it`);
  if (otherTables.length > 0)
    find('not-innodb', `tables of engines that are not crash-safe: ${otherTables.join(', ')}`);
  if (replica > 0) find('replica', 'the server applies changes of another one, or is a member of a cluster');
  return findings;
}

/** Directories that the server keeps data, logs and tablespaces in. */
export function pathsOf({ dataDirectory, dataHome, dataFiles, others, tablespaces }: ServerFacts): string[] {
  const from = (directory: string, path: string): string => posix.resolve(directory, path);
  const home = from(dataDirectory, dataHome ?? '');
  const files = dataFiles.split(';').map((file) => posix.dirname(from(home, /^[^:]*/.exec(file)?.[0] ?? '')));
  const logs = others.flatMap((path) => (path === null || path === '' ? [] : [from(dataDirectory, path)]));
  const paths = [from(dataDirectory, ''), ...files, ...logs, ...tablespaces.map((file) => posix.dirname(file))];
  return [...new Set(paths)];
}
