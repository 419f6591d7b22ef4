/**
 * Where the encryption key of a group comes from: the file that its policy names, in one of three forms.
 *
 *   NAME          the key itself: 64 hexadecimal digits
 *   NAME.cred     sealed by systemd-creds, to the host or its TPM; opened by `systemd-creds decrypt`
 *   NAME.command  an executable that prints the key, from a key service; no arguments, no shell, `keyTimeoutMs`
 *
 * All of them belong to root or to the agent's user, and nobody else may read, write or run them: who can change such a
 * file chooses the key, and a command runs with the agent's rights. No key and no output of a command is in an error.
 */
import { constants, open } from 'node:fs/promises';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import { tryTool } from '../files/tool.js';

/** In which a command, or systemd-creds, must have printed the key; then it is killed. */
export const keyTimeoutMs = 30_000;

/** Longer files hold no key. */
const fileBytesMax = 4096;

/** 32 bytes. Throws `encryption-key`. */
export async function readKeyFile(file: string, timeoutMs = keyTimeoutMs): Promise<Uint8Array> {
  const content = await readOwn(file);
  let text = content;
  if (file.endsWith('.cred')) text = await printed(file, 'systemd-creds', ['decrypt', file, '-'], timeoutMs);
  else if (file.endsWith('.command')) text = await printed(file, file, [], timeoutMs);
  if (!/^[0-9a-fA-F]{64}$/.test(text.trim())) {
    const what = text === content ? 'A key file holds' : `${file} must give`;
    throw new TidemarkError('encryption-key', `${what} 64 hexadecimal digits.`, { path: file });
  }
  return Buffer.from(text.trim(), 'hex');
}

/** Its first bytes; of the file that was checked, not of one that was put in its place. */
async function readOwn(file: string): Promise<string> {
  try {
    // A pipe in its place is not waited for.
    const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const stats = await handle.stat();
      if (!stats.isFile()) throw refused(file, 'is no file');
      const { uid, mode } = stats;
      const self = process.geteuid?.() ?? 0;
      if (uid !== 0 && uid !== self)
        throw refused(file, `belongs to user ${uid}, not to root or user ${self}: chown it`);
      const rights = (mode & 0o777).toString(8).padStart(4, '0');
      if ((mode & 0o077) !== 0) throw refused(file, `is open to others (mode ${rights}): chmod go= it`);
      const bytes = Buffer.alloc(fileBytesMax);
      const { bytesRead } = await handle.read(bytes, 0, bytes.length, 0);
      return bytes.toString('latin1', 0, bytesRead);
    } finally {
      await handle.close();
    }
  } catch (cause) {
    if (isTidemarkError(cause)) throw cause;
    throw new TidemarkError('encryption-key', `The key file cannot be read: ${(cause as Error).message}`, {
      path: file,
      cause,
    });
  }
}

const refused = (file: string, why: string): TidemarkError =>
  new TidemarkError('encryption-key', `The key file ${file} ${why}.`, { path: file });

async function printed(file: string, program: string, args: readonly string[], timeoutMs: number): Promise<string> {
  try {
    const { code, stdout, stderr } = await tryTool(program, args, timeoutMs);
    if (code === 0) return stdout;
    throw refused(
      file,
      `gives no key: ${program} ended with ${code}${stderr === '' ? '' : `: ${stderr.slice(0, 500)}`}`,
    );
  } catch (error) {
    if (isTidemarkError(error, 'encryption-key') || !isTidemarkError(error)) throw error;
    throw refused(file, `gives no key: ${error.message.replace(/\.$/, '')}`);
  }
}
