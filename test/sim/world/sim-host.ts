/**
 * One machine of the simulation. Each start gives a new {@link SimProcess}; code of an earlier one keeps its own, dead
 * one: its timers do not fire, its I/O never completes and changes nothing, its connections are gone.
 */
import type { Clock } from '../../../agent/src/core/clock.js';
import type { Random } from '../../../agent/src/core/random.js';
import type { Storage } from '../../../agent/src/core/storage.js';
import type { Dialer, Listener } from '../../../agent/src/core/transport.js';
import { SimClock } from './sim-clock.js';
import type { SimDisk } from './sim-disk.js';
import type { NetworkOwner, SimNetwork, SimPair } from './sim-network.js';
import type { SimRandom } from './sim-random.js';
import type { SimScheduler } from './sim-scheduler.js';
import { SimStorage } from './sim-storage.js';

/** What production code gets in place of the machine. */
export interface SimProcess {
  /** False from the moment of its death; an observer must not believe what dead code still says. */
  readonly alive: boolean;
  readonly hostName: string;
  readonly clock: Clock;
  readonly storage: Storage;
  readonly random: Random;
  readonly dialer: Dialer;
  /** Port 0 takes a free one. */
  listen(port: number): Listener;
}

export type CrashKind = 'kill' | 'power';

export class SimHost {
  readonly name: string;
  readonly disk: SimDisk;
  readonly #scheduler: SimScheduler;
  readonly #network: SimNetwork;
  readonly #random: SimRandom;
  #process: RunningProcess | undefined;
  #silent: SimPair[] = [];
  /** Added to the wall clock of this host; a fault may change it at any time. */
  wallOffsetMs = 0;
  /** Called after each death, when nothing of the process runs any more. */
  onDeath: ((kind: CrashKind) => void) | undefined;

  constructor(name: string, scheduler: SimScheduler, network: SimNetwork, disk: SimDisk, random: SimRandom) {
    this.name = name;
    this.disk = disk;
    this.#scheduler = scheduler;
    this.#network = network;
    this.#random = random;
  }

  /** The running process, undefined when dead. */
  get process(): SimProcess | undefined {
    return this.#process;
  }

  /** Starts a process; the host must not have one. After a power cut, half of the peers now hear of their lost connections. */
  start(): SimProcess {
    if (this.#process !== undefined) throw new Error(`${this.name} already runs`);
    for (const pair of this.#silent.splice(0)) if (this.#random.chance(0.5)) this.#network.cut(pair);
    this.#process = new RunningProcess(this, this.#scheduler, this.#network, this.#random.fork());
    return this.#process;
  }

  /** Kills the process at once (as SIGKILL); nothing when it is dead. The machine and its cache live on. */
  kill(): void {
    const died = this.#end();
    if (died === undefined) return;
    this.#network.ownerDied(died);
    this.onDeath?.('kill');
  }

  /** Cuts the power: kills the process, and the disk decides over everything unsynced. */
  powerCut(): void {
    const died = this.#end();
    if (died !== undefined) this.#silent.push(...this.#network.hostVanished(died));
    this.disk.crash();
    if (died !== undefined) this.onDeath?.('power');
  }

  /** Dies right after the effect of the `count`-th I/O from now (1 is the next), before its caller hears of it. */
  crashAfterIo(count: number, kind: CrashKind): void {
    let left = count;
    this.disk.onIo = () => {
      left -= 1;
      if (left > 0) return;
      this.disk.onIo = undefined;
      if (kind === 'kill') this.kill();
      else this.powerCut();
    };
  }

  #end(): RunningProcess | undefined {
    const process = this.#process;
    this.#process = undefined;
    this.disk.onIo = undefined;
    process?.die();
    return process;
  }
}

class RunningProcess implements SimProcess, NetworkOwner {
  readonly hostName: string;
  readonly clock: Clock;
  readonly storage: SimStorage;
  readonly random: Random;
  readonly dialer: Dialer;
  readonly #network: SimNetwork;
  #alive = true;

  constructor(host: SimHost, scheduler: SimScheduler, network: SimNetwork, random: SimRandom) {
    this.hostName = host.name;
    this.#network = network;
    this.random = random;
    this.clock = new SimClock(scheduler, {
      monotonicStartMs: random.int(1_000_000),
      wallOffsetMs: () => host.wallOffsetMs,
      isAlive: () => this.#alive,
    });
    this.storage = new SimStorage(host.disk, this);
    this.dialer = network.dialerFor(this);
  }

  get alive(): boolean {
    return this.#alive;
  }

  listen(port: number): Listener {
    return this.#network.listen(this, port);
  }

  die(): void {
    this.#alive = false;
    this.storage.abandon();
  }
}
