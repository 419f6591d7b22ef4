/** Numbers that a client outside of any VM gives to a database, one after the other, with this host's clock. */
import { createConnection, type Socket } from 'node:net';
import { once } from 'node:events';
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Commit } from './commit-log.js';
import { guestDisk, type GuestImage } from './guest-image.js';
import type { Laboratory } from './laboratory.js';
import { repositoryRoot } from './paths.js';
import { waitFor } from './wait.js';

/** The guest's one processor has something left for the hooks. */
const betweenMs = 20;
const answerMs = 10_000;

/** One connection: a line to the database, and the line that acknowledges it. */
interface Asker {
  ask(line: string): Promise<string>;
  close(): void;
}

export class NumberLog {
  readonly commits: Commit[] = [];
  #stopped = false;
  #failure: Error | undefined;
  readonly #running: Promise<void>;

  private constructor(
    private readonly asker: Asker,
    give: (number: number) => { readonly line: string; readonly answer: string },
  ) {
    this.#running = this.#run(give).catch((error: unknown) => {
      this.#failure = error as Error;
    });
  }

  /** Rows of MariaDB's table, about 4 KiB each. */
  static async mariadb(lab: Laboratory, image: GuestImage, address: string): Promise<NumberLog> {
    const place = lab.path('sql-client', 'place');
    mkdirSync(place);
    const script = join(repositoryRoot(), 'test', 'support', 'sql-client.sh');
    const apart = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc'];
    const disks = [guestDisk(image, 'root'), guestDisk(image, 'sql')];
    const child = spawn('unshare', [...apart, 'bash', script, place, ...disks, address]);
    return NumberLog.#start(
      new NumberLog(new ProcessAsker(child), (number) => ({
        line: `insert into numbers (number, pad) values (${number}, repeat(md5(${number}), 128)); select ${number};`,
        answer: String(number),
      })),
    );
  }

  /** Keys `n:NUMBER` of Redis. */
  static async redis(address: string): Promise<NumberLog> {
    const socket = createConnection(6379, address);
    await once(socket, 'connect');
    const pad = 'x'.repeat(200);
    return NumberLog.#start(
      new NumberLog(new SocketAsker(socket), (number) => ({ line: `SET n:${number} ${pad}`, answer: '+OK' })),
    );
  }

  static async #start(log: NumberLog): Promise<NumberLog> {
    try {
      await waitFor('a number is acknowledged', () => log.acknowledged > 0, { timeoutMs: 60_000 });
      return log;
    } catch (error) {
      log.asker.close();
      throw error;
    }
  }

  /** How many; throws when the database failed. */
  get acknowledged(): number {
    if (this.#failure !== undefined) throw this.#failure;
    return this.commits.length;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    // A guest that hangs answers never.
    const timer = setTimeout(() => this.asker.close(), answerMs);
    await this.#running;
    clearTimeout(timer);
    this.asker.close();
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #run(give: (number: number) => { readonly line: string; readonly answer: string }): Promise<void> {
    for (let number = 1; !this.#stopped; number++) {
      const { line, answer } = give(number);
      const sentMs = Date.now();
      const said = await this.asker.ask(line);
      if (said !== answer) throw new Error(`${line.slice(0, 60)}: ${said}`);
      this.commits.push({ number, sentMs, acknowledgedMs: Date.now() });
      await sleep(betweenMs);
    }
  }
}

class ProcessAsker implements Asker {
  readonly #lines: AsyncIterator<string>;
  #errors = '';

  constructor(private readonly child: ChildProcessWithoutNullStreams) {
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    child.stderr.on('data', (data: Buffer) => (this.#errors += data.toString()));
    child.stdin.on('error', () => undefined);
  }

  async ask(line: string): Promise<string> {
    this.child.stdin.write(`${line}\n`);
    const { done, value } = await this.#lines.next();
    return done === true ? `ended: ${this.#errors.slice(-500)}` : value;
  }

  close(): void {
    this.child.kill('SIGKILL');
  }
}

class SocketAsker implements Asker {
  readonly #lines: AsyncIterator<string>;

  constructor(private readonly socket: Socket) {
    socket.on('error', () => undefined);
    this.#lines = createInterface({ input: socket })[Symbol.asyncIterator]();
  }

  async ask(line: string): Promise<string> {
    this.socket.write(`${line}\r\n`);
    const { done, value } = await this.#lines.next();
    return done === true ? 'ended' : value;
  }

  close(): void {
    this.socket.destroy();
  }
}
