/**
 * A guest reached over SSH, for hosts that block programs of the guest agent. The host's key is pinned: another key is never
 * trusted, and nothing is sent to it. Key and password come from files of the agent's host; they are read for each connection.
 */
import { timingSafeEqual } from 'node:crypto';
import type { NodeSSH } from 'node-ssh';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import { sleep, type Clock } from '../core/clock.js';
import type { GuestSession, HeldSession, ProgramOptions, ProgramResult } from './guest-session.js';
import { secretOf } from './secret-file.js';
import type { SshSettings } from './settings.js';
import { quote } from './shell-quote.js';

type Channel = Awaited<ReturnType<NodeSSH['requestShell']>>;

const connectMs = 20_000;
const pollMs = 10;
/** N lines NAME=VALUE of the input become the environment, so that no process list shows them; then the program. */
const script = 'n=$1; shift; while [ "$n" -gt 0 ]; do IFS= read -r line; export "$line"; n=$((n - 1)); done; exec "$@"';

export class SshSession implements GuestSession {
  readonly transport = 'ssh';
  #client: Promise<NodeSSH> | undefined;

  constructor(
    private readonly settings: SshSettings,
    private readonly clock: Clock,
  ) {}

  async run(command: readonly string[], options: ProgramOptions): Promise<ProgramResult> {
    const { timeoutMs } = options;
    const client = await this.#open();
    const limit = ['timeout', '-s', 'KILL', String(Math.max(0.1, timeoutMs / 1000))];
    const { line, input } = this.#line([...limit, ...command], options);
    const late = this.#late(command, timeoutMs);
    const over = Promise.withResolvers<never>();
    over.promise.catch(() => undefined);
    const startMs = this.clock.monotonicMs();
    const timer = this.clock.after(timeoutMs + connectMs, () => over.reject(late));
    try {
      const ran = client.execCommand(line, { stdin: input, noTrim: true });
      const { code, stdout, stderr } = await Promise.race([ran, over.promise]);
      // Its own time limit kills it by a signal.
      if ((code === null || code > 128) && this.clock.monotonicMs() - startMs >= timeoutMs) throw late;
      if (code === null) throw new TidemarkError('host-unreachable', `${this.#name} ended the connection.`);
      return { exitCode: code, stdout, stderr };
    } catch (error) {
      if (isTidemarkError(error, 'timed-out')) throw error;
      this.close();
      if (isTidemarkError(error)) throw error;
      throw new TidemarkError('host-unreachable', `${this.#name}: ${(error as Error).message}`, { cause: error });
    } finally {
      timer.cancel();
    }
  }

  async open(command: readonly string[], options: ProgramOptions): Promise<HeldSession> {
    const client = await this.#open();
    const { line, input } = this.#line(['sh', '-c', 'echo $$; exec "$@" 2>&1', 'sh', ...command], options);
    const channel = await new Promise<Channel>((resolve, reject) => {
      client.connection?.exec(line, (error: Error | undefined, opened: Channel) => {
        if (error === undefined) resolve(opened);
        else reject(new TidemarkError('host-unreachable', `${this.#name}: ${error.message}`, { cause: error }));
      });
    });
    const session = new ChannelSession(channel, this.clock);
    if (input !== '') channel.write(input);
    session.pid = Number((await session.expect(/^\d+\n/, options.timeoutMs)).trim());
    return session;
  }

  /** Idempotent; a later call connects again. */
  close(): void {
    const client = this.#client;
    this.#client = undefined;
    client?.then(
      (each) => each.dispose(),
      () => undefined,
    );
  }

  get #name(): string {
    const { user, host, port } = this.settings;
    return `${user}@${host}:${port}`;
  }

  #late(command: readonly string[], timeoutMs: number): TidemarkError {
    return new TidemarkError('timed-out', `${command[0]} on ${this.#name} took over ${Math.round(timeoutMs)} ms.`);
  }

  #line(command: readonly string[], { input = '', environment = {} }: ProgramOptions): { line: string; input: string } {
    const lines = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
    const { sudo } = this.settings;
    const words = [...(sudo ? ['sudo', '-n', '--'] : []), 'sh', '-c', script, 'sh', String(lines.length), ...command];
    return { line: words.map(quote).join(' '), input: [...lines.map((each) => `${each}\n`), input].join('') };
  }

  #open(): Promise<NodeSSH> {
    if (this.#client !== undefined) return this.#client;
    const client = this.#connect();
    this.#client = client;
    const forget = (): void => {
      if (this.#client === client) this.#client = undefined;
    };
    client.then((each) => {
      each.connection?.on('error', forget);
      each.connection?.on('close', forget);
    }, forget);
    return client;
  }

  async #connect(): Promise<NodeSSH> {
    const { host, port, user, hostKey, privateKeyFile, passwordFile } = this.settings;
    const [type = '', base64 = ''] = hostKey.trim().split(/\s+/);
    const pinned = Buffer.from(base64, 'base64');
    let isOther = false;
    // Loaded on first use: an agent without such hooks starts without it.
    const { NodeSSH: Client } = await import('node-ssh');
    const client = new Client();
    try {
      await client.connect({
        ...{ host, port, username: user, readyTimeout: connectMs, keepaliveInterval: 10_000 },
        ...(privateKeyFile === undefined ? {} : { privateKey: `${await secretOf(privateKeyFile)}\n` }),
        ...(passwordFile === undefined ? {} : { password: await secretOf(passwordFile) }),
        algorithms: { serverHostKey: keyAlgorithms(type) },
        hostVerifier: (key: Buffer) => {
          isOther = key.length !== pinned.length || !timingSafeEqual(key, pinned);
          return !isOther;
        },
      });
    } catch (cause) {
      client.dispose();
      if (isTidemarkError(cause)) throw cause;
      const { level, message } = cause as Error & { level?: string };
      if (isOther)
        throw new TidemarkError('host-key-mismatch', `${this.#name} has another host key than the pinned one.`);
      const code = level === 'client-authentication' ? 'host-refused' : 'host-unreachable';
      throw new TidemarkError(code, `${this.#name}: ${message}`, { cause });
    }
    return client;
  }
}

class ChannelSession implements HeldSession {
  pid = 0;
  #unread = '';
  #isOpen = true;

  constructor(
    private readonly channel: Channel,
    private readonly clock: Clock,
  ) {
    channel.on('data', (data: Buffer) => (this.#unread += data.toString('utf8')));
    const ended = (): void => void (this.#isOpen = false);
    channel.on('exit', ended);
    channel.on('close', ended);
    channel.on('error', ended);
  }

  send(line: string): Promise<void> {
    if (!this.#isOpen) return Promise.reject(new TidemarkError('hook-failed', 'The session has ended.'));
    this.channel.write(`${line}\n`);
    return Promise.resolve();
  }

  async expect(pattern: RegExp, timeoutMs: number): Promise<string> {
    const untilMs = this.clock.monotonicMs() + timeoutMs;
    for (;;) {
      const wasOpen = this.#isOpen;
      const match = pattern.exec(this.#unread);
      if (match !== null) {
        const end = match.index + match[0].length;
        const text = this.#unread.slice(0, end);
        this.#unread = this.#unread.slice(end);
        return text;
      }
      if (!wasOpen) throw new TidemarkError('hook-failed', `The session has ended: ${this.#unread.slice(-500)}`);
      if (this.clock.monotonicMs() >= untilMs)
        throw new TidemarkError('timed-out', `The session did not answer within ${Math.round(timeoutMs)} ms.`);
      await sleep(this.clock, pollMs);
    }
  }

  isOpen(): Promise<boolean> {
    return Promise.resolve(this.#isOpen);
  }

  async close(): Promise<void> {
    this.channel.end();
    this.channel.close();
    while (this.#isOpen) await sleep(this.clock, pollMs);
  }
}

function keyAlgorithms(type: string): never[] {
  return (type === 'ssh-rsa' ? ['rsa-sha2-512', 'rsa-sha2-256'] : [type]) as never[];
}
