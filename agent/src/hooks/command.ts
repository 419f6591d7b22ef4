/**
 * command: programs of the person's own. So that the application is released also when this agent dies, the guest itself runs
 * `release` after a while: a shell of its own session that sleeps, and that the agent's own release ends. Killing that
 * sleep proves that the guest had not released the application before.
 */
import { TidemarkError } from '../core/errors.js';
import { commandDocument } from './command-document.js';
import type { GuestSession } from './guest-session.js';
import type { Finding, Hook, HookModule, HookStep, Prepared, Verified } from './hook.js';
import type { HookSettingsOf } from './settings.js';
import { quote } from './shell-quote.js';

type Settings = HookSettingsOf<'command'>;

/** Name of the shell that sleeps; undo finds it by this. */
const timerName = 'tidemark-release';
const proofLengthMax = 200;

/** `sh SECONDS RELEASE QUIESCE`: prints the pid of the sleep, then runs QUIESCE. The timer leaves the guest agent's service. */
const quiesceScript = `timer='for group in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/systemd/cgroup.procs; do
  [ ! -w "$group" ] || echo $$ >"$group"
done 2>/dev/null
sleep "$1" </dev/null >/dev/null 2>&1 &
echo $!
exec </dev/null >/dev/null 2>&1
wait $!
[ $? -gt 128 ] || eval "exec $2"'
echo "timer $(setsid /bin/sh -c "$timer" ${timerName} "$1" "$2" </dev/null 2>/dev/null &)"
eval "exec $3"`;

/** Ends every timer of the guest. */
const endTimers = `for process in /proc/[0-9]*; do
  case $(tr '\\0' ' ' <"$process/cmdline" 2>/dev/null) in
    *' ${timerName} '*) [ "$process" = "/proc/$$" ] || kill -KILL "-\${process#/proc/}" 2>/dev/null ;;
  esac
done`;

/** `sh RELEASE PID SECONDS`: the timer is ended only when the application is free. PID 0: not known, and may not be left behind. */
const releaseScript = `eval "$1" || exit
[ "$2" != 0 ] || { ${endTimers}; }
if [ "$(tr '\\0' ' ' <"/proc/$2/cmdline" 2>/dev/null)" = "sleep $3 " ] && kill -KILL "$2"
then echo 'timer unfired'; else echo 'timer fired'; fi`;

/** Ends timers that an earlier agent left; then the program. */
const undoScript = `${endTimers}
exec "$@"`;

class Command implements Hook {
  #timer: string | undefined;
  #mayBeHeld = false;
  #wasUnfired = false;

  constructor(private readonly settings: Settings) {}

  async prepare(step: HookStep): Promise<Prepared> {
    const { prepare } = this.settings;
    if (prepare !== undefined) await run(step, 'prepare', prepare);
    return { findings: [] };
  }

  async quiesce(step: HookStep): Promise<void> {
    const { quiesce, release, releaseAfterSeconds } = this.settings;
    this.#mayBeHeld = true;
    const words = ['/bin/sh', '-c', quiesceScript, 'sh', String(releaseAfterSeconds), lineOf(release), lineOf(quiesce)];
    const result = await runIn(step, 'quiesce', words);
    this.#timer = /^timer (\d+)$/m.exec(result.stdout)?.[1];
    check(step, quiesce, result);
    if (this.#timer === undefined)
      throw new TidemarkError('hook-failed', `The guest ${step.vm} could not be told to release by itself.`);
  }

  async release(step: HookStep): Promise<void> {
    if (!this.#mayBeHeld) return;
    const { release, releaseAfterSeconds } = this.settings;
    const args = [lineOf(release), this.#timer ?? '0', String(releaseAfterSeconds)];
    const result = await runIn(step, 'release', ['/bin/sh', '-c', releaseScript, 'sh', ...args]);
    check(step, release, result);
    this.#mayBeHeld = false;
    this.#wasUnfired = /^timer unfired$/m.test(result.stdout);
  }

  async verify(step: HookStep): Promise<Verified> {
    const { verify, quiesce, releaseAfterSeconds } = this.settings;
    const findings: Finding[] = [];
    if (!this.#wasUnfired)
      findings.push({
        code: 'released-early',
        reason: `the guest may have run release by itself: it does so ${releaseAfterSeconds} s after quiesce began`,
      });
    const verifiedBy = [`${quiesce[0]} held, the guest did not release by itself`];
    if (verify !== undefined) {
      const said = (await run(step, 'verify', verify)).trim().slice(0, proofLengthMax);
      verifiedBy.push(said === '' ? `${verify[0]} ended with 0` : said);
    }
    return { findings, verifiedBy };
  }

  async undo(step: HookStep): Promise<string[]> {
    const { undo, release } = this.settings;
    const program = undo ?? release;
    const result = await runIn(step, 'undo', ['/bin/sh', '-c', undoScript, timerName, ...program]);
    const said = check(step, program, result);
    return undo === undefined ? [] : said.split('\n').filter((line) => line !== '');
  }

  async afterRecovery(step: HookStep): Promise<void> {
    const { afterRecovery } = this.settings;
    if (afterRecovery !== undefined) await run(step, 'afterRecovery', afterRecovery);
  }
}

type Result = Awaited<ReturnType<GuestSession['run']>>;

async function run(step: HookStep, name: string, words: readonly string[]): Promise<string> {
  return check(step, words, await runIn(step, name, words));
}

function runIn({ guest, vm, leftMs }: HookStep, name: string, words: readonly string[]): Promise<Result> {
  return guest.run(words, { environment: { TIDEMARK_VM: vm, TIDEMARK_STEP: name }, timeoutMs: leftMs() });
}

/** What it printed; throws with its exit status and its own words. */
function check({ vm }: HookStep, [program]: readonly string[], { exitCode, stdout, stderr }: Result): string {
  if (exitCode === 0) return stdout;
  throw new TidemarkError('hook-failed', `${program} in ${vm} ended with ${exitCode}: ${stderr.trim().slice(-500)}`);
}

function lineOf(words: readonly string[]): string {
  return words.map(quote).join(' ');
}

export const command: HookModule<'command'> = {
  kind: 'command',
  document: commandDocument,
  create: (settings) => new Command(settings),
};
