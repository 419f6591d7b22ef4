/**
 * A client of the guest's PostgreSQL outside of any VM: commits numbers one after the other and keeps, with this host's clock,
 * when each was sent and acknowledged. So what a checkpoint must have, and must not have, is known from outside.
 */
import { spawn, type ChildProcessWithoutNullStreams } from 'node:child_process';
import { readlinkSync } from 'node:fs';
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

/** In a network namespace of its own: other tests of this host have guests with the same addresses. */
const clientAddress = '10.77.0.250';
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

  /** Commits until stopped; resolves when the first is acknowledged. `padBytes`: of each row, about; `from`: not used before. */
  static async start(
    processes: Processes,
    virsh: Virsh,
    { padBytes = 256, from = firstNumber } = {},
  ): Promise<CommitLog> {
    const bridge = /<bridge name='([^']*)'/.exec(await virsh.run(['net-dumpxml', network]))?.[1] ?? '';
    const psql = `read -r _; exec psql -XAtq -h ${database} -U postgres postgres`;
    const child = spawn('unshare', ['--net', 'sh', '-c', psql], { env: { ...process.env, PGCONNECT_TIMEOUT: '20' } });
    await plugIn(processes, child.pid!, bridge);
    child.stdin.write('\n');
    const log = new CommitLog(child);
    log.#running = log.#run(padBytes, from);
    await waitFor('a commit from outside', () => log.commits.length > 0, { timeoutMs: 60_000 });
    return log;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
    this.#child.stdin.end('\\q\n');
    this.#child.kill('SIGKILL');
  }

  async #run(padBytes: number, from: number): Promise<void> {
    const answers = this.#lines[Symbol.asyncIterator]();
    for (let number = from; !this.#stopped; number++) {
      const sentMs = Date.now();
      const pad = `repeat(md5('${number}'), ${Math.ceil(padBytes / 32)})`;
      this.#child.stdin.write(`insert into numbers (number, pad) values (${number}, ${pad}) returning number;\n`);
      const answer = await answers.next();
      if (answer.done === true || answer.value !== String(number)) throw new Error(`psql says ${String(answer.value)}`);
      this.commits.push({ number, sentMs, acknowledgedMs: Date.now() });
    }
  }
}

/** Gives the process's own network namespace a link to the bridge; it goes with the namespace. */
async function plugIn(processes: Processes, pid: number, bridge: string): Promise<void> {
  await waitFor('a network namespace', () => namespaceOf(pid) !== namespaceOf('self'));
  const port = `tm-c${pid}`;
  await processes.run('ip', ['link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(pid)]);
  await processes.run('ip', ['link', 'set', port, 'master', bridge, 'up']);
  const inside = (...args: string[]): Promise<string> =>
    processes.run('nsenter', ['--target', String(pid), '--net', 'ip', ...args]);
  await inside('address', 'add', `${clientAddress}/24`, 'dev', 'eth0');
  await inside('link', 'set', 'eth0', 'up');
}

const namespaceOf = (pid: number | 'self'): string => readlinkSync(`/proc/${pid}/ns/net`);
