/** Shuts VMs of source groups down and starts them again. */
import { sleep, type Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { Hypervisor } from '../hypervisor/hypervisor.js';
import type { StoppedVm } from './stop-records.js';

/** A guest that still boots does not hear its first request. */
const askAgainMs = 20_000;
const againMs = 1000;
/** Starting is tried for so long: the fence of a group, or a daemon that starts itself, may be in the way. */
const startMs = 60_000;

export class VmPower {
  constructor(
    private readonly clock: Clock,
    private readonly hypervisor: (name: string) => Hypervisor,
    private readonly isClosing: () => boolean,
  ) {}

  async isOff(vm: StoppedVm): Promise<boolean> {
    const hypervisor = this.hypervisor(vm.hypervisor);
    // A monitor tells the UUID of a VM that runs, alone.
    return (await hypervisor.findVm(hypervisor.kind === 'qmp' ? vm.name : vm.uuid)).state === 'off';
  }

  /** Resolves when it is off. Throws `vm-not-stopped` when it is not in time and may not be forced. */
  async stop(vm: StoppedVm, timeoutMs: number, force: boolean, signal: AbortSignal): Promise<void> {
    const hypervisor = this.hypervisor(vm.hypervisor);
    const untilMs = this.clock.monotonicMs() + timeoutMs;
    let trouble = '';
    for (;;) {
      signal.throwIfAborted();
      const leftMs = untilMs - this.clock.monotonicMs();
      if (leftMs <= 0) break;
      try {
        if (await race(hypervisor.shutdownVm(vm, Math.min(leftMs, askAgainMs)), signal)) return;
      } catch (error) {
        // A daemon that restarts, a guest agent that does not answer: the guest may hear the next request.
        if (!isTidemarkError(error) || signal.aborted) throw error;
        trouble = ` (${error.message})`;
        await sleep(this.clock, againMs, signal);
      }
    }
    if (!force)
      throw new TidemarkError('vm-not-stopped', `VM ${vm.name} is not off after ${timeoutMs / 1000} s${trouble}.`);
    await hypervisor.destroyVm(vm);
  }

  /** Those that are off are started; resolves with the words of what could not be. */
  async start(vms: readonly StoppedVm[]): Promise<{ started: string[]; failed: string[] }> {
    const started: string[] = [];
    const failed: string[] = [];
    await Promise.all(
      vms.map(async (vm) => {
        const problem = await this.startOne(vm);
        if (problem === undefined) started.push(vm.name);
        else failed.push(`${vm.name}: ${problem}`);
      }),
    );
    return { started, failed };
  }

  /** Waits until it is off; false when it is not in time. */
  async awaitOff(vm: StoppedVm, untilMs: number): Promise<boolean> {
    for (;;) {
      const off = await this.isOff(vm).catch(() => false);
      if (off || this.isClosing() || this.clock.monotonicMs() > untilMs) return off;
      await sleep(this.clock, againMs);
    }
  }

  private async startOne(vm: StoppedVm): Promise<string | undefined> {
    const untilMs = this.clock.monotonicMs() + startMs;
    for (;;) {
      try {
        const hypervisor = this.hypervisor(vm.hypervisor);
        await hypervisor.startVm(vm);
        return undefined;
      } catch (error) {
        if (!isTidemarkError(error)) throw error;
        const hopeless = !error.retry || this.isClosing() || this.clock.monotonicMs() > untilMs;
        if (hopeless) return error.message;
        await sleep(this.clock, againMs);
      }
    }
  }
}

/** The request goes on by itself when the signal aborts; its outcome is no matter then. */
function race<T>(request: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(signal.reason as Error);
  signal.addEventListener('abort', onAbort, { once: true });
  request.catch(() => undefined);
  return Promise.race([request, promise]).finally(() => signal.removeEventListener('abort', onAbort));
}
