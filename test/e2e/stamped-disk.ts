/**
 * A guest that writes stamped sectors to a real capture export over NBD and keeps the plain model of what was
 * acknowledged (test/sim/model.ts), so that every checkpoint's bytes can be checked exactly. It survives kills: what was
 * under way when a connection broke may or may not be on the disk, for ever.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { NbdClient } from '../../agent/src/nbd/client.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { DiskModel, sectorBytes, stampedBytes } from '../sim/model.js';
import type { SimRandom } from '../sim/world/sim-random.js';

/** Microseconds of the wall clock, each given once: model time that can be compared with source time. */
export class WallCounter {
  #last = 0;

  /** `++counter.now` is how the model asks. */
  get now(): number {
    this.#last = Math.max(this.#last + 1, Math.floor((performance.timeOrigin + performance.now()) * 1000));
    return this.#last - 1;
  }

  set now(value: number) {
    this.#last = value;
  }
}

let lastStamp = 0;

export class StampedDisk {
  readonly model: DiskModel;
  acknowledgedCount = 0;
  acknowledgedBytes = 0;
  brokenCount = 0;
  /** Longest wait for an acknowledgement; set to 0 to measure anew. */
  slowestMs = 0;
  #stopped = false;
  #loop: Promise<void> | undefined;

  constructor(
    readonly name: string,
    readonly sizeBytes: number,
    private readonly uri: string,
    private readonly random: SimRandom,
    counter: WallCounter,
  ) {
    this.model = new DiskModel(name, 'guest', sizeBytes, counter);
  }

  start({ queueDepth = 8, pauseMs = 10 } = {}): void {
    this.#stopped = false;
    this.#loop = this.#run(queueDepth, pauseMs);
    // Told by `stop`.
    this.#loop.catch(() => undefined);
  }

  /** Ends after what is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#loop;
  }

  /** One write, on a client of its own. */
  async write(client: NbdClient, offsetBytes: number, lengthBytes: number): Promise<void> {
    const id = ++lastStamp;
    const settled = this.model.issue(id, false, offsetBytes, lengthBytes);
    const startedMs = performance.now();
    await client.write(stampedBytes(id, lengthBytes), offsetBytes);
    settled.acknowledge();
    this.slowestMs = Math.max(this.slowestMs, performance.now() - startedMs);
    this.acknowledgedCount++;
    this.acknowledgedBytes += lengthBytes;
  }

  connect(): Promise<NbdClient> {
    return NbdClient.open(this.uri, { clock: nodeClock, handshakeMs: 2000 });
  }

  async #run(queueDepth: number, pauseMs: number): Promise<void> {
    while (!this.#stopped) {
      let client: NbdClient;
      try {
        client = await this.connect();
      } catch {
        await sleep(20);
        continue;
      }
      let broken = false;
      void client.closed.then(() => (broken = true));
      const worker = async (): Promise<void> => {
        while (!this.#stopped && !broken) {
          try {
            await this.#change(client);
          } catch {
            broken = true;
            return;
          }
          await sleep(this.random.float() * 2 * pauseMs);
        }
      };
      await Promise.all(Array.from({ length: queueDepth }, worker));
      if (broken) this.brokenCount++;
      await client.close();
    }
  }

  async #change(client: NbdClient): Promise<void> {
    const { random } = this;
    const sectorCount = 1 + random.int(random.float() < 0.1 ? 256 : 16);
    const lengthBytes = sectorCount * sectorBytes;
    // Half of the writes hit an eighth of the disk, so that they overlap.
    const span = random.float() < 0.5 ? this.sizeBytes / 8 : this.sizeBytes;
    const offsetBytes = random.int((span - lengthBytes) / sectorBytes) * sectorBytes;
    const kind = random.float();
    if (kind < 0.05) {
      const settled = this.model.issue(0, true, offsetBytes, lengthBytes);
      await (random.float() < 0.5 ? client.zero(offsetBytes, lengthBytes) : client.trim(offsetBytes, lengthBytes));
      settled.acknowledge();
      this.acknowledgedCount++;
    } else if (kind < 0.08) await client.flush();
    else await this.write(client, offsetBytes, lengthBytes);
  }
}
