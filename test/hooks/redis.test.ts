import { describe, expect, test } from '@jest/globals';
import type { Hook } from '../../agent/src/hooks/hook.js';
import { createHook } from '../../agent/src/hooks/registry.js';
import { hookSettingsSchema } from '../../agent/src/hooks/settings.js';
import { Dialogue, type DialogueLine } from './dialogue.js';
import { hookStep } from './step.js';

const sound = {
  run_id: 'c44d294c3c20cff40c5d32b46fda3b488c59e46d',
  loading: '0',
  role: 'master',
  aof_enabled: '1',
  aof_rewrite_in_progress: '0',
  aof_last_bgrewrite_status: 'ok',
  aof_last_write_status: 'ok',
  aof_current_size: '4711',
  aof_buffer_length: '0',
};
type Said = Partial<Record<keyof typeof sound, string | undefined>>;
const info = (more: Said): string =>
  Object.entries({ ...sound, ...more })
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}:${value}\r\n`)
    .join('');

interface Server {
  readonly config?: string;
  /** At prepare. */
  readonly settings?: Said;
  /** At release. */
  readonly resumed?: Said;
  readonly resumedAt?: number;
  readonly first?: readonly DialogueLine[];
}

/** Has to be looked at, paused and let go in this order; each script is one dialogue line. */
function server({ config, settings = {}, resumed = {}, resumedAt = 101.25, first = [] }: Server): Dialogue {
  const lines: DialogueLine[] = [
    ...first,
    {
      in: ['up'],
      on: /redis-cli -h 127\.0\.0\.1 -p 6379\nCONFIG GET dir\nCONFIG GET appenddirname\nINFO$/,
      answer: `${config ?? 'dir\n/var/lib/redis\nappenddirname\nappendonlydir\n'}${info(settings)}`,
      next: 'seen',
    },
    {
      in: ['seen'],
      on: /CLIENT PAUSE \$milliseconds WRITE[^]*sync -- [^]* 15000 \/var\/lib\/redis\/appendonlydir redis-cli/,
      answer: `# Server\r\n${info({ role: undefined })}tidemark_uptime:100.50\n`,
      next: 'paused',
    },
    {
      in: ['up', 'seen', 'paused'],
      on: /INFO server\\nINFO persistence\\nCLIENT UNPAUSE/,
      answer: `${info({ role: undefined, ...resumed })}OK\ntidemark_uptime:${resumedAt}\n`,
      next: 'going',
    },
  ];
  return new Dialogue({ start: 'up', lines, outOfOrder: 'ERR unknown command' });
}

const hook = (more: object = {}): Hook => createHook(hookSettingsSchema.parse({ kind: 'redis', ...more }) as never);

async function held(options: Server): Promise<ReturnType<Hook['verify']>> {
  const [redis, step] = [hook(), hookStep(server(options))];
  await redis.prepare(step);
  await redis.quiesce(step);
  await redis.release(step);
  return redis.verify(step);
}

describe('redis', () => {
  test('pauses writes, flushes the file from outside, and proves that not a byte came meanwhile', async () => {
    const [dialogue, redis] = [server({}), hook()];
    const step = hookStep(dialogue);
    expect(await redis.prepare(step)).toEqual({ findings: [] });
    await redis.quiesce(step);
    await redis.release(step);
    await redis.release(step);
    expect(await redis.verify(step)).toEqual({
      findings: [],
      verifiedBy: ['append-only file of 4711 bytes flushed and not written to, 0.75 of 15 s of pause'],
      facts: { aofBytes: 4711 },
    });
    expect({ violations: dialogue.violations, state: dialogue.state }).toEqual({ violations: [], state: 'going' });
    expect(dialogue.said).toHaveLength(3);
  });

  test.each([
    ['aof-off', { aof_enabled: '0', aof_last_write_status: undefined }],
    ['aof-write-failed', { aof_last_write_status: 'err' }],
    ['aof-rewrite-failed', { aof_last_bgrewrite_status: 'err' }],
    ['aof-rewriting', { aof_rewrite_in_progress: '1' }],
    ['loading', { loading: '1' }],
    ['replica', { role: 'slave' }],
  ])('%s is a finding, and nothing is asked of it any more', async (code, settings) => {
    const dialogue = server({ settings });
    expect(await hook().prepare(hookStep(dialogue))).toMatchObject({ findings: [{ code }] });
    expect(dialogue.said).toHaveLength(1);
  });

  test('the append-only file on a disk that is not captured is a finding; before Redis 7 it lies in dir itself', async () => {
    const unprotectedPaths = ['/var/lib/redis/appendonlydir'];
    const findings = [{ code: 'data-unprotected' }];
    expect(await hook().prepare(hookStep(server({}), { unprotectedPaths }))).toMatchObject({ findings });
    const old = server({ config: 'dir\n/srv/redis\n' });
    expect(await hook().prepare(hookStep(old, { unprotectedPaths: ['/srv/redis'] }))).toMatchObject({ findings });
  });

  test.each([
    ['pause-broken', { resumed: { aof_current_size: '4750' } }],
    ['pause-broken', { resumed: { aof_buffer_length: '39' } }],
    ['pause-broken', { resumedAt: 115.5 }],
    ['restarted', { resumed: { run_id: 'another' } }],
    ['aof-write-failed', { resumed: { aof_last_write_status: 'err' } }],
  ])('%s after the hold: no proof', async (code, options) => {
    expect(await held(options)).toMatchObject({ findings: [{ code }], verifiedBy: [] });
  });

  test('a pause that is refused is an error in its own words, and is ended all the same', async () => {
    const first = [{ in: ['seen'], on: /CLIENT PAUSE/, errors: 'ERR syntax error', exitCode: 3 }];
    const [dialogue, redis] = [server({ first }), hook()];
    const step = hookStep(dialogue);
    await redis.prepare(step);
    await expect(redis.quiesce(step)).rejects.toThrow('Redis in db says: ERR syntax error');
    await redis.release(step);
    expect(dialogue.state).toBe('going');
    expect((await redis.verify(step)).findings).toMatchObject([{ code: 'pause-broken' }]);
  });

  test('a password that is wrong, and answers that it does not know, are errors', async () => {
    const denied = server({ first: [{ on: /CONFIG GET/, answer: 'NOAUTH Authentication required.\n' }] });
    await expect(hook().prepare(hookStep(denied))).rejects.toThrow('NOAUTH');
  });

  test('undo ends a pause; a server that does not run has none', async () => {
    const dialogue = server({});
    expect(await hook().undo(hookStep(dialogue))).toEqual([]);
    expect(dialogue.state).toBe('going');
    const refused = { errors: 'Could not connect to Redis at 127.0.0.1:6379: Connection refused', exitCode: 1 };
    expect(await hook().undo(hookStep(server({ first: [{ on: /UNPAUSE/, ...refused }] })))).toEqual([]);
    const broken = { errors: 'NOPERM', exitCode: 3 };
    await expect(hook().undo(hookStep(server({ first: [{ on: /UNPAUSE/, ...broken }] })))).rejects.toThrow('NOPERM');
  });
});
