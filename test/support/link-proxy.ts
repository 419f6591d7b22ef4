/** A link between two agents that tests shape and cut; see link-proxy-process.ts. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ManagedProcess, Processes } from './processes.js';
import { repositoryRoot } from './paths.js';
import { waitFor } from './wait.js';

export class LinkProxy {
  #bytesPerSecond: number | null = null;

  private constructor(
    readonly process: ManagedProcess,
    /** host:port that the source agent dials. */
    readonly address: string,
  ) {}

  static async start(processes: Processes, name: string, toAddress: string): Promise<LinkProxy> {
    const file = join(repositoryRoot(), 'test', 'support', 'link-proxy-process.ts');
    const child = processes.start(name, process.execPath, ['--disable-warning=ExperimentalWarning', file, toAddress], {
      stdin: true,
    });
    const port = await waitFor(`port of ${name}`, () => {
      child.failIfExited();
      return /^(\d+)\n/.exec(readFileSync(child.logFile, 'utf8'))?.[1];
    });
    return new LinkProxy(child, `127.0.0.1:${port}`);
  }

  /** Capacity of each direction; null: no limit. */
  shape(bytesPerSecond: number | null): void {
    this.#bytesPerSecond = bytesPerSecond;
    this.#tell(false);
  }

  /** Resets all connections and refuses new ones until `restore`. */
  cut(): void {
    this.#tell(true);
  }

  restore(): void {
    this.#tell(false);
  }

  #tell(cut: boolean): void {
    this.process.child.stdin?.write(`${JSON.stringify({ bytesPerSecond: this.#bytesPerSecond, cut })}\n`);
  }
}
