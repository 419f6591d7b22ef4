/** The network between simulated hosts: who listens where, which connections exist, and what breaks them. */
import { TidemarkError } from '../../../agent/src/core/errors.js';
import type { Connection, Dialer, Listener } from '../../../agent/src/core/transport.js';
import { SimConnection } from './sim-connection.js';
import type { IoOwner } from './sim-disk.js';
import { SimLink, type LinkSpeed } from './sim-link.js';
import { SimPipe } from './sim-pipe.js';
import type { SimRandom } from './sim-random.js';
import type { SimScheduler } from './sim-scheduler.js';

/** A process on the network; its name is what its certificate would say. */
export interface NetworkOwner extends IoOwner {
  readonly hostName: string;
}

/** Both ends of a connection; `dialer` opened it. */
export interface SimPair {
  readonly dialer: SimConnection;
  readonly listener: SimConnection;
  readonly dialerHost: string;
  readonly listenerHost: string;
  /** Drops what is on the wire, both ways, for good. */
  breakOff(): void;
}

export interface CutOptions {
  /** The end on this host hears of the cut only after `silentMs` (half-open). Default: both hear within 2 s. */
  readonly silentHost?: string;
  /** Default: never. */
  readonly silentMs?: number;
}

/** A dial into a blocked link gives up after this. */
const connectTimeoutMs = 10_000;
/** Both ends hear of a cut within this. */
const cutHeardMsMax = 2_000;

export class SimNetwork {
  readonly #scheduler: SimScheduler;
  readonly #random: SimRandom;
  readonly #links = new Map<string, SimLink>();
  readonly #listeners = new Map<string, SimListener>();
  readonly #distrusted = new Set<string>();
  #pairs: SimPair[] = [];
  #nextPort = 40_000;

  constructor(scheduler: SimScheduler, random: SimRandom) {
    this.#scheduler = scheduler;
    this.#random = random;
  }

  /** The one-way link between two hosts. */
  link(from: string, to: string): SimLink {
    const key = `${from}>${to}`;
    let link = this.#links.get(key);
    if (link === undefined) this.#links.set(key, (link = new SimLink(this.#scheduler)));
    return link;
  }

  /** Both ways. */
  setSpeed(hostA: string, hostB: string, speed: LinkSpeed): void {
    this.link(hostA, hostB).setSpeed(speed);
    this.link(hostB, hostA).setSpeed(speed);
  }

  /** Nothing passes, both ways; nobody is told. For one way only: `link(from, to).block()`. */
  partition(hostA: string, hostB: string): void {
    this.link(hostA, hostB).block();
    this.link(hostB, hostA).block();
  }

  heal(hostA: string, hostB: string): void {
    this.link(hostA, hostB).open();
    this.link(hostB, hostA).open();
  }

  /** The certificate of `name` no longer counts (or counts again): its dials and dials to it give `peer-refused`. */
  setTrusted(name: string, trusted: boolean): void {
    if (trusted) this.#distrusted.delete(name);
    else this.#distrusted.add(name);
  }

  /** Pairs with at least one end that has not heard of a close; between two hosts when they are named. */
  pairs(hostA?: string, hostB?: string): SimPair[] {
    this.#pairs = this.#pairs.filter((pair) => pair.dialer.isOpen || pair.listener.isOpen);
    const touches = (pair: SimPair, host: string | undefined): boolean =>
      host === undefined || pair.dialerHost === host || pair.listenerHost === host;
    return this.#pairs.filter((pair) => touches(pair, hostA) && touches(pair, hostB));
  }

  /** Cuts a connection in the middle: bytes under way are lost, each end hears of it at its own time. */
  cut(pair: SimPair, { silentHost, silentMs = Infinity }: CutOptions = {}): void {
    pair.breakOff();
    for (const [end, host] of [
      [pair.dialer, pair.dialerHost],
      [pair.listener, pair.listenerHost],
    ] as const) {
      const heardMs = host === silentHost ? silentMs : this.#random.float() * cutHeardMsMax;
      if (heardMs < Infinity) this.#scheduler.after(heardMs, () => end.finish('connection reset'));
    }
  }

  /** The kernel closes what a dead process had open: what was sent may still arrive, or not. */
  ownerDied(owner: NetworkOwner): void {
    for (const [address, listener] of this.#listeners) if (listener.owner === owner) this.#listeners.delete(address);
    for (const pair of this.pairs()) {
      const mine =
        pair.dialer.owner === owner ? pair.dialer : pair.listener.owner === owner ? pair.listener : undefined;
      if (mine === undefined || !mine.isOpen) continue;
      mine.finish('the process died');
      if (this.#random.chance(0.5)) this.cut(pair);
    }
  }

  /** The host lost power: its connections go silent and the peers are not told. Returns the pairs, for {@link cut}. */
  hostVanished(owner: NetworkOwner): SimPair[] {
    for (const [address, listener] of this.#listeners) if (listener.owner === owner) this.#listeners.delete(address);
    const lost = this.pairs().filter((pair) => pair.dialer.owner === owner || pair.listener.owner === owner);
    for (const pair of lost) {
      pair.breakOff();
      (pair.dialer.owner === owner ? pair.dialer : pair.listener).finish('the host lost power');
    }
    return lost;
  }

  dialerFor(owner: NetworkOwner): Dialer {
    return { dial: (address, signal) => this.#dial(owner, address, signal) };
  }

  /** Port 0 takes a free one. Throws `config-invalid` when the port is taken. */
  listen(owner: NetworkOwner, port: number): Listener {
    const address = `${owner.hostName}:${port === 0 ? this.#nextPort++ : port}`;
    if (this.#listeners.has(address)) {
      throw new TidemarkError('config-invalid', `simulated: ${address} is taken`, { path: address });
    }
    const listener = new SimListener(address, owner, () => this.#listeners.delete(address));
    this.#listeners.set(address, listener);
    return listener;
  }

  #dial(owner: NetworkOwner, address: string, signal: AbortSignal): Promise<Connection> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) reject(signal.reason as Error);
      if (signal.aborted || !owner.alive) return;
      const target = address.slice(0, address.lastIndexOf(':'));
      const blocked = this.link(owner.hostName, target).blocked || this.link(target, owner.hostName).blocked;
      const roundTripMs = 2 * this.link(owner.hostName, target).latencyMs;
      const timer = this.#scheduler.after(blocked ? connectTimeoutMs : 1.5 * roundTripMs, () => {
        signal.removeEventListener('abort', onAbort);
        if (!owner.alive) return;
        try {
          resolve(this.#connect(owner, address, target, blocked));
        } catch (error) {
          reject(error as Error);
        }
      });
      const onAbort = (): void => {
        timer.run = undefined;
        reject(signal.reason as Error);
      };
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  #connect(owner: NetworkOwner, address: string, target: string, blocked: boolean): Connection {
    const listener = this.#listeners.get(address);
    if (blocked || listener === undefined) {
      throw new TidemarkError('peer-unreachable', `simulated: nobody answers at ${address}`, { path: address });
    }
    if (this.#distrusted.has(owner.hostName) || this.#distrusted.has(target)) {
      throw new TidemarkError('peer-refused', `simulated: a certificate is not trusted at ${address}`, {
        path: address,
      });
    }
    const port = this.#nextPort++;
    const near = new SimConnection(this.#scheduler, owner, { name: target, address });
    const far = new SimConnection(this.#scheduler, listener.owner, {
      name: owner.hostName,
      address: `${owner.hostName}:${port}`,
    });
    const out = new SimPipe(this.#scheduler, this.#random, this.link(owner.hostName, target), (data) =>
      far.receive(data),
    );
    const back = new SimPipe(this.#scheduler, this.#random, this.link(target, owner.hostName), (data) =>
      near.receive(data),
    );
    near.join(out, back);
    far.join(back, out);
    this.#pairs.push({
      dialer: near,
      listener: far,
      dialerHost: owner.hostName,
      listenerHost: target,
      breakOff: () => {
        out.breakOff();
        back.breakOff();
      },
    });
    listener.accept(far);
    return near;
  }
}

class SimListener implements Listener {
  readonly address: string;
  readonly owner: NetworkOwner;
  readonly #remove: () => void;
  readonly #accepted: SimConnection[] = [];
  #handler: ((connection: Connection) => void) | undefined;

  constructor(address: string, owner: NetworkOwner, remove: () => void) {
    this.address = address;
    this.owner = owner;
    this.#remove = remove;
  }

  onConnection(handler: (connection: Connection) => void): void {
    this.#handler = handler;
  }

  close(): Promise<void> {
    this.#remove();
    for (const connection of this.#accepted.splice(0)) connection.close('the listener was closed');
    return Promise.resolve();
  }

  accept(connection: SimConnection): void {
    this.#accepted.push(connection);
    if (this.#handler === undefined) connection.close('nobody accepts connections');
    else this.#handler(connection);
  }
}
