/** Waits for a VM that runs at another host, until it runs here. Events only wake it; it looks every few seconds. */
import type { Clock, Timer } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { Hypervisor, Vm } from '../hypervisor/hypervisor.js';

const lookMs = 5000;

export interface VmArrivalOptions {
  /** Name or UUID. */
  readonly vm: string;
  readonly hypervisor: Hypervisor;
  readonly clock: Clock;
  /** False: what it left behind when it was here before is not settled yet. */
  readonly isReady: () => boolean;
  /** It runs here. Throws what refuses it; it is asked again then. Called no more once it resolved. */
  readonly arrived: (vm: Vm) => Promise<void>;
  /** Told once for each new reason. */
  readonly failed: (error: TidemarkError) => void;
}

export class VmArrival {
  readonly vm: string;
  readonly hypervisor: Hypervisor;
  failure: TidemarkError | undefined;
  private readonly o: VmArrivalOptions;
  private unwatch: (() => void) | undefined;
  private timer: Timer | undefined;
  private looking: Promise<void> | undefined;
  private again = false;
  private over = false;

  constructor(options: VmArrivalOptions) {
    this.o = options;
    this.vm = options.vm;
    this.hypervisor = options.hypervisor;
  }

  start(): void {
    this.unwatch = this.o.hypervisor.watch(() => this.look());
    this.look();
  }

  async close(): Promise<void> {
    this.end();
    await this.looking;
  }

  private look(): void {
    if (this.over) return;
    this.again = this.looking !== undefined;
    if (this.again) return;
    this.timer?.cancel();
    this.looking = this.tryOnce().then(() => {
      this.looking = undefined;
      if (this.over) return;
      if (this.again) this.look();
      else this.timer = this.o.clock.after(lookMs, () => this.look());
    });
  }

  private async tryOnce(): Promise<void> {
    const { hypervisor, vm, isReady, arrived, failed } = this.o;
    try {
      const found = await hypervisor.findVm(vm);
      // Paused: maybe it is on its way still.
      if (found.state === 'running' && isReady() && !this.over) {
        await arrived(found);
        this.end();
      }
      this.failure = undefined;
    } catch (error) {
      if (!(error instanceof TidemarkError)) throw error;
      if (isTidemarkError(error, 'vm-unknown')) this.failure = undefined;
      else if (this.noteFailure(error)) failed(error);
    }
  }

  /** True for a new one. */
  private noteFailure(error: TidemarkError): boolean {
    const known = this.failure?.message === error.message;
    this.failure = error;
    return !known;
  }

  private end(): void {
    this.over = true;
    this.unwatch?.();
    this.timer?.cancel();
  }
}
