/**
 * An existing Linux host over SSH. Its key is pinned: another key is never trusted, and the server is asked for a key of the
 * pinned kind only. No password, no agent and no configuration of the person's own is used unless it was named.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { NodeSSH } from 'node-ssh';
import { Readable } from 'node:stream';
import { isTidemarkError, TidemarkError } from '../agent-client.js';
import { outputCharactersMax, runMsDefault, type Host, type RunOptions, type RunResult } from './host.js';

export interface SshOptions {
  readonly address: string;
  readonly port: number;
  readonly user: string;
  /** `TYPE BASE64`, as in a known_hosts file without its host names. */
  readonly hostKey: string;
  readonly privateKey?: string | undefined;
  /** Socket of an SSH agent. */
  readonly agentSocket?: string | undefined;
  /** Commands run by `sudo -n`. */
  readonly sudo: boolean;
  /** Default 20 s. */
  readonly connectMs?: number;
}

const connectMsDefault = 20_000;
const goneCodes = ['ECONNREFUSED', 'ECONNRESET', 'EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT', 'ENOTFOUND', 'EAI_AGAIN'];

/** Throws `host-unreachable`, `host-key-mismatch`, `host-refused`. */
export async function connectSsh(options: SshOptions): Promise<Host> {
  const { address, port, user, hostKey, privateKey, agentSocket, connectMs = connectMsDefault } = options;
  const [type = '', base64 = ''] = hostKey.trim().split(/\s+/);
  const pinned = Buffer.from(base64, 'base64');
  const name = `${user}@${address}:${port}`;
  let shown: Buffer | undefined;
  // Loaded on first use: a provider without such hosts starts without it.
  const { NodeSSH: Client } = await import('node-ssh');
  const client = new Client();
  try {
    await client.connect({
      ...{ host: address, port, username: user, readyTimeout: connectMs },
      ...(privateKey === undefined ? {} : { privateKey }),
      ...(agentSocket === undefined ? {} : { agent: agentSocket }),
      keepaliveInterval: 10_000,
      algorithms: { serverHostKey: keyAlgorithms(type) },
      hostVerifier: (key: Buffer) => {
        shown = key;
        return key.length === pinned.length && timingSafeEqual(key, pinned);
      },
    });
  } catch (error) {
    client.dispose();
    throw refusalOf(error as Error, name, pinned, shown);
  }
  client.connection?.on('error', () => client.dispose());
  return {
    name,
    run: (script, args, run) => runThere(client, options, name, script, args, run),
    [Symbol.asyncDispose]: async () => client.dispose(),
  };
}

async function runThere(
  client: NodeSSH,
  { sudo }: SshOptions,
  name: string,
  script: string,
  args: readonly string[],
  { input = '', timeoutMs = runMsDefault }: RunOptions = {},
): Promise<RunResult> {
  const words = [...(sudo ? ['sudo', '-n', '--'] : []), 'sh', '-c', script, 'sh', ...args];
  const late = new TidemarkError('timed-out', `A command on ${name} took longer than ${timeoutMs / 1000} s.`);
  const gone = new TidemarkError('host-unreachable', `The connection to ${name} ended in the middle of a command.`);
  let timer: NodeJS.Timeout | undefined;
  const stopped = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      client.dispose();
      reject(late);
    }, timeoutMs);
    client.connection?.once('close', () => reject(gone));
  });
  // Nobody listens any more when the command itself has ended.
  stopped.catch(() => undefined);
  try {
    const stdin = typeof input === 'string' ? Readable.from([input]) : input;
    const ran = client.execCommand(words.map(quote).join(' '), { stdin, noTrim: true });
    const { code, stdout, stderr } = await Promise.race([ran, stopped]);
    if (code === null) throw gone;
    return { code, stdout: stdout.slice(0, outputCharactersMax), stderr: stderr.slice(0, outputCharactersMax) };
  } catch (error) {
    if (isTidemarkError(error)) throw error;
    throw new TidemarkError('host-unreachable', `${name}: ${(error as Error).message}`, { cause: error as Error });
  } finally {
    clearTimeout(timer);
  }
}

function keyAlgorithms(type: string): never[] {
  return (type === 'ssh-rsa' ? ['rsa-sha2-512', 'rsa-sha2-256'] : [type]) as never[];
}

function refusalOf(error: Error, name: string, pinned: Buffer, shown: Buffer | undefined): TidemarkError {
  const { code, level } = error as { code?: string; level?: string };
  if (shown !== undefined && !shown.equals(pinned))
    return new TidemarkError(
      'host-key-mismatch',
      `${name} has the host key ${fingerprint(shown)}, not ${fingerprint(pinned)}; nothing was sent to it.`,
      { path: 'host.hostKey' },
    );
  if (level === 'client-authentication')
    return new TidemarkError('host-refused', `${name} does not let this key in: ${error.message}`, {
      path: 'host.privateKey',
    });
  if (level === 'client-timeout' || level === 'client-socket' || goneCodes.includes(code ?? ''))
    return new TidemarkError('host-unreachable', `${name}: ${error.message}`, { path: 'host.address' });
  return new TidemarkError('host-refused', `${name}: ${error.message}`, { path: 'host' });
}

/** As OpenSSH shows it. */
function fingerprint(key: Buffer): string {
  return `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`;
}

function quote(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
