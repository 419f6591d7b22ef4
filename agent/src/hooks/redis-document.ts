/** What the hook redis promises, and what it runs. */
import type { HookDocument } from './hook.js';

const page = (name: string): string => `https://redis.io/docs/latest/${name}/`;
const info = page('commands/info');
const pause = page('commands/client-pause');

export const redisDocument: HookDocument = {
  promise:
    'Every write that was acknowledged before the hold is in the point, none that was sent after it; writes, scripts and expiry wait meanwhile, reads do not. It needs the append-only file, which a start reads again. With another appendfsync than always a crash loses what was acknowledged last; an application point does not.',
  findings: {
    'aof-off': 'appendonly is no: what was written since the last snapshot is in memory only.',
    'aof-write-failed': 'aof_last_write_status is not ok: the append-only file could not be written or flushed.',
    'aof-rewrite-failed': 'aof_last_bgrewrite_status is not ok.',
    'aof-rewriting': 'The append-only file is being rewritten; when it was switched on just now it is not whole yet.',
    loading: 'The server is still reading its data.',
    replica: 'The server is a replica: its writes are decided elsewhere.',
    'data-unprotected': 'The append-only file lies on no captured disk of the group.',
    restarted: 'The server was started anew in the middle of the hold.',
    'pause-broken': 'The pause ended by itself, or the append-only file was written to in the middle of the hold.',
  },
  statements: [
    {
      step: 'prepare',
      statement: 'CONFIG GET dir; CONFIG GET appenddirname',
      why: 'Where the append-only file lies. Redis before 7 has no directory of its own for it.',
      source: page('commands/config-get'),
    },
    {
      step: 'prepare',
      statement: 'INFO',
      why: 'aof_enabled, aof_last_write_status, aof_last_bgrewrite_status, loading, role: findings.',
      source: info,
    },
    {
      step: 'quiesce',
      statement: 'CLIENT PAUSE <pauseSeconds> WRITE',
      why: 'OK: no write is carried out until its end, which comes by itself.',
      source: pause,
    },
    {
      step: 'quiesce',
      statement: 'INFO persistence',
      why: 'Until aof_buffer_length is 0: all that was acknowledged is written to the file.',
      source: info,
    },
    {
      step: 'quiesce',
      statement: 'sync <append-only files and their directory>',
      why: 'fsync from outside: what was written is on the disk, whatever appendfsync says. (WAITAOF waits only for the writes of the connection that asks.)',
      source: 'https://man7.org/linux/man-pages/man2/fsync.2.html',
    },
    {
      step: 'release',
      statement: 'INFO server; INFO persistence; CLIENT UNPAUSE',
      why: 'How the file is while writes are still paused; then they go on.',
      source: page('commands/client-unpause'),
    },
    {
      step: 'verify',
      statement: 'run_id, aof_current_size, aof_buffer_length of quiesce and release; /proc/uptime',
      why: 'The same server, not a byte more, and less time than the pause had.',
      source: info,
    },
    {
      step: 'undo',
      statement: 'CLIENT UNPAUSE',
      why: 'Ends a pause that an earlier agent left; without one it changes nothing.',
      source: page('commands/client-unpause'),
    },
  ],
  testedAgainst: 'real',
};
