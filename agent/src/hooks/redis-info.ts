/** What Redis says of itself (INFO, CONFIG GET), and what of it breaks the promise. */
import { posix } from 'node:path';
import { z } from 'zod';
import type { Finding } from './hook.js';

const number = z.coerce.number();
/** `tidemark_uptime`: seconds of the guest's monotonic clock, from the hook's own script; 0: not said. */
export const infoSchema = z.object({
  run_id: z.string().min(1),
  loading: z.string(),
  role: z.string().optional(),
  aof_enabled: z.string(),
  aof_last_write_status: z.string().optional(),
  aof_last_bgrewrite_status: z.string().optional(),
  aof_rewrite_in_progress: z.string().optional(),
  aof_current_size: number.default(0),
  aof_buffer_length: number.default(0),
  tidemark_uptime: number.default(0),
});
export type Info = z.infer<typeof infoSchema>;

/** Lines `name:value`. */
export function answersOf(text: string): Record<string, string> {
  const lines = text.split('\n').map((line) => /^([a-z_0-9]+):(.*?)\r?$/.exec(line));
  return Object.fromEntries(lines.flatMap((match) => (match === null ? [] : [[match[1]!, match[2]!]])));
}

/** Of CONFIG GET: a line with the name, then one with the value. Redis before 7 has one file, and no directory for it. */
export function configOf(text: string): { readonly aofDirectory: string } | undefined {
  const lines = text.split('\n').map((line) => line.replace(/\r$/, ''));
  const valueOf = (name: string): string | undefined => {
    const at = lines.indexOf(name);
    return at < 0 ? undefined : lines[at + 1];
  };
  const directory = valueOf('dir');
  if (directory === undefined || !directory.startsWith('/')) return undefined;
  return { aofDirectory: posix.join(directory, valueOf('appenddirname') ?? '') };
}

export function findingsOf(info: Info): Finding[] {
  const findings: Finding[] = [];
  const find = (code: string, reason: string): void => void findings.push({ code, reason });
  if (info.aof_enabled !== '1') find('aof-off', 'appendonly is no; set it yes');
  else if (info.aof_last_write_status !== 'ok')
    find('aof-write-failed', `the last write or fsync of the append-only file is ${info.aof_last_write_status}`);
  else if (info.aof_last_bgrewrite_status !== 'ok')
    find('aof-rewrite-failed', `the last rewrite of the append-only file is ${info.aof_last_bgrewrite_status}`);
  if (info.loading !== '0') find('loading', 'Redis is still reading its data');
  if (info.role !== undefined && info.role !== 'master') find('replica', 'the server is a replica; hook its primary');
  return findings;
}
