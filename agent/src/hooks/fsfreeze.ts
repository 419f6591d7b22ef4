/** fsfreeze: every file system of the guest, by its guest agent. On Windows the same calls drive VSS. */
import { TidemarkError } from '../core/errors.js';
import type { GuestAgent } from '../hypervisor/guest-agent.js';
import type { Hook, HookDocument, HookModule, HookStep, Prepared, Verified } from './hook.js';
import type { HookSettingsOf } from './settings.js';

const reference = 'https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html';
/** A thaw is asked for again until it is answered or the step is over; the dead man thaws in any case. */
const thawMs = 5000;
const syncCountMax = 8;

/** Syncs every file system that lies on a block device, then says how much is dirty (kB, without units). */
const syncScript = `while read -r source target _; do case $source in /dev/*) sync -f "$(printf '%b' "$target")" || exit 1 ;; esac
done </proc/self/mounts
awk '/^(Dirty|Writeback):/ { sum += $2 } END { print sum }' /proc/meminfo`;

const document: HookDocument = {
  promise:
    'Every file system of the guest is as after a clean unmount: no journal is replayed. What programs keep in their own memory is not in it; a database replays its log as after a power cut.',
  findings: {},
  statements: [
    {
      step: 'prepare',
      statement: 'sync -f <each mount point>',
      why: 'Flushes what is dirty before anybody is held, until dirtyBytesMax; so the freeze has little to flush.',
      source: 'https://man7.org/linux/man-pages/man2/syncfs.2.html',
    },
    {
      step: 'quiesce',
      statement: 'guest-fsfreeze-freeze',
      why: 'Syncs and freezes all local file systems; returns how many. On error nothing stays frozen.',
      source: reference,
    },
    {
      step: 'release',
      statement: 'guest-fsfreeze-thaw',
      why: 'Returns how many were thawed by this call.',
      source: reference,
    },
    {
      step: 'verify',
      statement: 'guest-fsfreeze-status',
      why: '`thawed`; and the count of the thaw equals that of the freeze, so nobody thawed in between.',
      source: reference,
    },
    {
      step: 'undo',
      statement: 'guest-fsfreeze-status, guest-fsfreeze-thaw',
      why: 'Ends a freeze that an earlier agent left, and the state `frozen` that the guest agent keeps after a thaw by others.',
      source: reference,
    },
  ],
  testedAgainst: 'real',
};

class FsFreeze implements Hook {
  #frozenCount: number | undefined;
  #thawedCount: number | undefined;
  #mayBeFrozen = false;

  constructor(private readonly settings: HookSettingsOf<'fsfreeze'>) {}

  async prepare(step: HookStep): Promise<Prepared> {
    agentOf(step);
    // VSS flushes by itself.
    if (step.isWindows) return { findings: [] };
    for (let count = 0; count < syncCountMax; count++) {
      const { exitCode, stdout, stderr } = await step.guest.run(['/bin/sh', '-c', syncScript], {
        timeoutMs: step.leftMs(),
      });
      if (exitCode !== 0 || !/^\d+\s*$/.test(stdout))
        throw new TidemarkError('hook-failed', `sync in ${step.vm} ended with ${exitCode}: ${stderr.slice(-500)}`);
      if (Number(stdout) * 1024 <= this.settings.dirtyBytesMax) break;
    }
    return { findings: [] };
  }

  async quiesce(step: HookStep): Promise<void> {
    this.#mayBeFrozen = true;
    const count = await agentOf(step).call('guest-fsfreeze-freeze', {}, step.leftMs());
    if (typeof count !== 'number' || count < 1)
      throw new TidemarkError(
        'hook-failed',
        `The guest agent of ${step.vm} froze ${JSON.stringify(count)} file systems.`,
      );
    this.#frozenCount = count;
  }

  async release(step: HookStep): Promise<void> {
    if (!this.#mayBeFrozen) return;
    const count = await agentOf(step).call('guest-fsfreeze-thaw', {}, Math.min(thawMs, step.leftMs()));
    this.#mayBeFrozen = false;
    // A second call thaws none: the first answer counts.
    this.#thawedCount ??= typeof count === 'number' ? count : undefined;
  }

  async verify(step: HookStep): Promise<Verified> {
    const status = await agentOf(step).call('guest-fsfreeze-status', {}, step.leftMs());
    if (status !== 'thawed')
      throw new TidemarkError(
        'hook-failed',
        `The guest agent of ${step.vm} says ${JSON.stringify(status)} after the thaw.`,
      );
    const [frozen, thawed] = [this.#frozenCount, this.#thawedCount];
    if (frozen === undefined || thawed !== frozen)
      return {
        findings: [
          {
            code: 'thawed-early',
            reason: `${thawed ?? 0} of ${frozen ?? 0} file systems were still frozen at the thaw`,
          },
        ],
        verifiedBy: [],
      };
    return { findings: [], verifiedBy: [`${thawed} thawed = ${frozen} frozen`], facts: { fileSystems: frozen } };
  }

  async undo(step: HookStep): Promise<string[]> {
    const agent = agentOf(step);
    if ((await agent.call('guest-fsfreeze-status', {}, step.leftMs())) === 'thawed') return [];
    const count = await agent.call('guest-fsfreeze-thaw', {}, step.leftMs());
    return [`thawed ${String(count)} file systems`];
  }

  async afterRecovery(): Promise<void> {
    // A recovered guest has booted: nothing is frozen.
  }
}

function agentOf({ agent, vm }: HookStep): GuestAgent {
  if (agent !== undefined) return agent;
  throw new TidemarkError('hook-failed', `fsfreeze of ${vm} needs its guest agent.`);
}

export const fsfreeze: HookModule<'fsfreeze'> = {
  kind: 'fsfreeze',
  document,
  create: (settings) => new FsFreeze(settings),
};
