/**
 * A client of the guest's PostgreSQL outside of any VM: commits numbers one after the other and keeps, with this host's clock,
 * when each was sent and acknowledged. So what a checkpoint must have, and must not have, is known from outside.
 */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { createInterface, type Interface } from 'node:readline';
import type { Virsh } from '../../agent/src/hypervisor/virsh.js';
import type { Processes } from './processes.js';
import { network } from './two-tier.js';
import { waitFor } from './wait.js';

export interface Commit {
  readonly number: number;
  /** Milliseconds since the Unix epoch. */
  readonly sentMs: number;
  readonly acknowledgedMs: number;
}

const hostAddress = '10.77.0.250';
const database = '10.77.0.2';
/** Above what the client in the other VM writes. */
export const firstNumber = 1_000_000_000;

export class CommitLog {
  readonly commits: Commit[] = [];
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: Interface;
  #running: Promise<void> | undefined;
  #stopped = false;

  private constructor(child: ChildProcessWithoutNullStreams) {
    this.#child = child;
    this.#lines = createInterface({ input: child.stdout });
  }

  /** Commits until stopped; resolves when the first is acknowledged. `padBytes`: of each row, about. */
  static async start(processes: Processes, virsh: Virsh, { padBytes = 256 } = {}): Promise<CommitLog> {
    const bridge = /<bridge name='([^']*)'/.exec(await virsh.run(['net-dumpxml', network]))?.[1] ?? '';
    await processes.run('ip', ['address', 'replace', `${hostAddress}/32`, 'dev', bridge]);
    await processes.run('ip', ['route', 'replace', `${database}/32`, 'dev', bridge, 'src', hostAddress]);
    const child = spawn('psql', ['-XAtq', '-h', database, '-U', 'postgres', 'postgres'], {
      env: { ...process.env, PGCONNECT_TIMEOUT: '20' },
    });
    const log = new CommitLog(child);
    log.#running = log.#run(padBytes);
    await waitFor('a commit from outside', () => log.commits.length > 0, { timeoutMs: 60_000 });
    return log;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
    this.#child.stdin.end('\\q\n');
    this.#child.kill('SIGKILL');
  }

  async #run(padBytes: number): Promise<void> {
    const answers = this.#lines[Symbol.asyncIterator]();
    for (let number = firstNumber; !this.#stopped; number++) {
      const sentMs = Date.now();
      const pad = `repeat(md5('${number}'), ${Math.ceil(padBytes / 32)})`;
      this.#child.stdin.write(`insert into numbers (number, pad) values (${number}, ${pad}) returning number;\n`);
      const answer = await answers.next();
      if (answer.done === true || answer.value !== String(number)) throw new Error(`psql says ${String(answer.value)}`);
      this.commits.push({ number, sentMs, acknowledgedMs: Date.now() });
    }
  }
}
