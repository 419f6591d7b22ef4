import { existsSync, readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import type { HeldSession } from '../../agent/src/hooks/guest-session.js';
import { LocalGuest } from './local-guest.js';

/** One that was killed and not waited for has no command any more. */
const lives = (pid: number): boolean =>
  existsSync(`/proc/${pid}`) && readFileSync(`/proc/${pid}/cmdline`, 'utf8') !== '';

const open = (...script: string[]): Promise<HeldSession> =>
  new LocalGuest().open(['/bin/sh', '-c', ...script], { input: 'hello\n', timeoutMs: 10_000 });

test('a program stays, hears line by line, and is gone when it is closed', async () => {
  const session = await open('while read -r line; do echo "heard $line"; done');
  try {
    expect(await session.expect(/^heard hello$/m, 10_000)).toBe('heard hello');
    await session.send('first');
    await session.send('second');
    expect(await session.expect(/^heard first$/m, 10_000)).toBe('\nheard first');
    expect(await session.expect(/^heard second$/m, 10_000)).toBe('\nheard second');
    expect([await session.isOpen(), lives(session.pid)]).toEqual([true, true]);
    await expect(session.expect(/never/, 100)).rejects.toMatchObject({ code: 'timed-out' });
  } finally {
    await session.close();
  }
  expect([await session.isOpen(), lives(session.pid)]).toEqual([false, false]);
});

test('one that ends says its last words, and hears nothing more', async () => {
  const session = await open('read -r line; echo "ERROR 1205 after $line" >&2');
  await expect(session.expect(/fine/, 10_000)).rejects.toThrow('The session has ended: ERROR 1205 after hello');
  await expect(session.send('more')).rejects.toThrow('The session has ended');
  await session.close();
});
