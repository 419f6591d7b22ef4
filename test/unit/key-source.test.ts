/** The forms of a key file, and what is refused. */
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { readKeyFile } from '../../agent/src/runtime/key-source.js';

const digits = 'a1'.repeat(32);
/** A test does not make one: it would stay on the machine. */
const hostSecret = '/var/lib/systemd/credential.secret';

describe('a key file', () => {
  let directory: string;
  beforeAll(() => void (directory = mkdtempSync(join(tmpdir(), 'tidemark-keys-'))));
  afterAll(() => rmSync(directory, { recursive: true }));

  function file(name: string, text: string, mode = 0o600): string {
    const path = join(directory, name);
    writeFileSync(path, text);
    chmodSync(path, mode);
    return path;
  }
  const refusal = (path: string, timeoutMs?: number) => readKeyFile(path, timeoutMs).catch((error: unknown) => error);

  test('holds the key', async () => {
    expect(await readKeyFile(file('plain', `${digits}\n`))).toEqual(Buffer.from(digits, 'hex'));
    expect(await readKeyFile(file('read-only', digits, 0o400))).toEqual(Buffer.from(digits, 'hex'));
  });

  test.each([0o640, 0o604, 0o660, 0o601])('of mode %i is refused: others have rights', async (mode) => {
    const error = await refusal(file('open', digits, mode));
    expect(error).toMatchObject({ code: 'encryption-key', message: expect.stringContaining('chmod go= it') });
    expect(String(error)).not.toContain(digits);
  });

  test('of another user is refused', async () => {
    if (process.geteuid?.() !== 0) return console.warn('skipped: only root can give a file away');
    const path = file('foreign', digits);
    chownSync(path, 65_534, 65_534);
    expect(await refusal(path)).toMatchObject({
      code: 'encryption-key',
      message: expect.stringContaining('user 65534'),
    });
  });

  test('that is none, is missing or holds something else is refused', async () => {
    mkdirSync(join(directory, 'folder'), { mode: 0o700 });
    const pipe = join(directory, 'pipe');
    execFileSync('mkfifo', ['-m', '600', pipe]);
    for (const path of [pipe, join(directory, 'folder'), join(directory, 'nowhere'), file('short', 'abcd')])
      expect(await refusal(path)).toMatchObject({ code: 'encryption-key', path });
  });

  test('that is a command prints the key', async () => {
    const path = file('kms.command', `#!/bin/sh\n[ $# = 0 ] && echo ${digits}\n`, 0o700);
    expect(await readKeyFile(path)).toEqual(Buffer.from(digits, 'hex'));
  });

  test('that is a command which fails, says nonsense, hangs or cannot run gives its own words and no key', async () => {
    const failing = file('down.command', `#!/bin/sh\necho ${digits}; echo 'no such key' >&2; exit 7\n`, 0o700);
    const hanging = file('hung.command', `#!/bin/sh\necho ${digits}\nexec sleep 60\n`, 0o700);
    const errors = [
      [await refusal(failing), 'ended with 7: no such key'],
      [await refusal(file('odd.command', '#!/bin/sh\necho secret-and-odd\n', 0o700)), 'must give 64 hexadecimal'],
      [await refusal(hanging, 200), 'took over 200 ms'],
      [await refusal(file('inert.command', `#!/bin/sh\necho ${digits}\n`, 0o600)), 'cannot be run'],
      [await refusal(file('shared.command', `#!/bin/sh\necho ${digits}\n`, 0o755)), 'mode 0755'],
    ] as const;
    for (const [error, text] of errors) {
      expect(error).toMatchObject({ code: 'encryption-key', message: expect.stringContaining(text) });
      expect(String(error)).not.toMatch(new RegExp(`${digits}|secret-and-odd`));
    }
  });

  test('that systemd-creds sealed is opened, and refused under another name or when it was changed', async () => {
    if (process.geteuid?.() !== 0 || !existsSync(hostSecret))
      return console.warn(`skipped: needs root, systemd-creds and ${hostSecret} (systemd-creds setup)`);
    const [plain, sealed] = [file('to-seal', digits), join(directory, 'shop.cred')];
    execFileSync('systemd-creds', ['encrypt', '--with-key=host', plain, sealed], { stdio: 'ignore', timeout: 10_000 });
    chmodSync(sealed, 0o600);
    expect(await readKeyFile(sealed)).toEqual(Buffer.from(digits, 'hex'));
    const other = join(directory, 'other.cred');
    execFileSync('cp', ['-p', sealed, other]);
    for (const path of [other, file('broken.cred', 'AAAA')])
      expect(await refusal(path)).toMatchObject({ code: 'encryption-key', path });
  });
});
