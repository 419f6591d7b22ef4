/** A host to log in to: an sshd of its own on loopback, with a key of its own and file systems that only it mounts. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { userInfo } from 'node:os';
import { freePorts, type Laboratory } from './laboratory.js';
import type { ManagedProcess } from './processes.js';
import { waitFor } from './wait.js';

const program = '/usr/sbin/sshd';

/** Why it cannot be had here; undefined: it can. */
export function whyNoSshServer(): string | undefined {
  if (process.getuid?.() !== 0) return 'it needs root, for mounts of its own';
  return existsSync(program) ? undefined : 'openssh-server is not installed';
}

export interface SshServer {
  readonly port: number;
  /** TYPE BASE64 */
  readonly hostKey: string;
  readonly user: string;
  readonly process: ManagedProcess;
}

/** Lets in who has the private key in `NAME`.key of the laboratory, made with the first server. */
export async function startSshServer(lab: Laboratory, name: string, userKey: string): Promise<SshServer> {
  // Debian's sshd refuses to start without it.
  mkdirSync('/run/sshd', { recursive: true, mode: 0o755 });
  const hostKey = keyPair(lab.path(`${name}-host.key`));
  const [port] = await freePorts(1);
  const file = lab.path(`${name}.conf`);
  const settings = [
    ...[`Port ${port}`, 'ListenAddress 127.0.0.1', `HostKey ${hostKey}`, `AuthorizedKeysFile ${userKey}.pub`],
    ...[
      'PidFile none',
      'UsePAM no',
      'StrictModes no',
      'PasswordAuthentication no',
      'PermitRootLogin prohibit-password',
    ],
  ];
  writeFileSync(file, `${settings.join('\n')}\n`);
  const args = ['--mount', '--propagation', 'private', program, '-D', '-e', '-f', file];
  const sshd = lab.processes.start(name, 'unshare', args);
  const answers = (): Promise<boolean> =>
    new Promise((resolve) => {
      sshd.failIfExited();
      const socket = connect(port!, '127.0.0.1', () => socket.end(() => resolve(true)));
      socket.once('error', () => resolve(false));
    });
  await waitFor(`sshd of ${name}`, answers, { timeoutMs: 20_000, everyMs: 50 });
  const [type, base64] = readFileSync(`${hostKey}.pub`, 'utf8').split(' ');
  return { port: port!, hostKey: `${type} ${base64}`, user: userInfo().username, process: sshd };
}

/** Path of a new private key; the public one is beside it as `.pub`. */
export function keyPair(file: string): string {
  execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', 'test', '-f', file], { timeout: 20_000 });
  return file;
}
