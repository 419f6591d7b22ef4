/** A whole simulated world: hosts, their network and virtual time, all drawn from one seed. */
import { diskTimesDefault, SimDisk, type DiskTimes } from './sim-disk.js';
import { SimHost } from './sim-host.js';
import { SimNetwork } from './sim-network.js';
import { SimRandom } from './sim-random.js';
import { SimScheduler, type RunEnd, type RunOptions } from './sim-scheduler.js';

export class SimWorld {
  readonly seed: number;
  readonly scheduler = new SimScheduler();
  /** For the workload and the choice of faults; disks, links and hosts have generators of their own. */
  readonly random: SimRandom;
  readonly network: SimNetwork;
  readonly #worldRandom: SimRandom;
  readonly #hosts = new Map<string, SimHost>();

  constructor(seed: number) {
    this.seed = seed;
    this.#worldRandom = new SimRandom(seed);
    this.random = this.#worldRandom.fork();
    this.network = new SimNetwork(this.scheduler, this.#worldRandom.fork());
  }

  get nowMs(): number {
    return this.scheduler.nowMs;
  }

  /** Adds a host with an empty disk and no process. */
  addHost(name: string, times: DiskTimes = diskTimesDefault): SimHost {
    if (this.#hosts.has(name)) throw new Error(`the host ${name} exists`);
    const disk = new SimDisk(this.scheduler, this.#worldRandom.fork(), times);
    const host = new SimHost(name, this.scheduler, this.network, disk, this.#worldRandom.fork());
    this.#hosts.set(name, host);
    return host;
  }

  /** See SimScheduler.run. */
  run(options: RunOptions = {}): Promise<RunEnd> {
    return this.scheduler.run(options);
  }

  /** Runs until the promise settles and returns its result; throws when nothing is left that could settle it. */
  async drive<T>(promise: Promise<T>, timeoutMs = Infinity): Promise<T> {
    let settled = false;
    const onSettled = (): void => {
      settled = true;
    };
    promise.then(onSettled, onSettled);
    const end = await this.run({ until: () => settled, untilMs: this.nowMs + timeoutMs });
    if (!settled) throw new Error(`seed ${this.seed}: still pending after ${this.nowMs} ms (${end})`);
    return await promise;
  }
}
