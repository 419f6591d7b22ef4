/**
 * A session kept open over a hold where only programs that end can be run (the guest agent): its input is a FIFO and its
 * output a file, both in a directory of the guest's memory (tmpfs), which no freeze touches.
 */
import { sleep, type Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { GuestSession, HeldSession, ProgramOptions } from './guest-session.js';

/** `sh -c START sh PROGRAM…`: prints the directory and the pid. The shell that starts it keeps the FIFO open. */
const startScript = `set -eu
for place in /run /dev/shm; do
  grep -q " $place tmpfs " /proc/mounts && break
  place=
done
[ -n "$place" ] || { echo 'neither /run nor /dev/shm is in memory' >&2; exit 70; }
umask 077
directory=$(mktemp -d "$place/tidemark-session.XXXXXX")
mkfifo "$directory/in"
cat >"$directory/first"
# Open for both, so that it waits for no reader and never ends while the session lives.
setsid sh -c 'exec 3<>"$0/in"; cat "$0/first" >&3; rm "$0/first"; exec timeout -s KILL 3600 "$@" <&3 >"$0/out" 2>&1' "$directory" "$@" \\
  </dev/null >/dev/null 2>&1 &
echo "$directory $!"`;
/** One that was killed and not waited for is dead, too. */
const lives = (pid: string): string => `grep -q '^State:[[:space:]]*[DIRSTt]' "/proc/${pid}/status" 2>/dev/null`;
const readScript = `${lives('$3')}; lives=$?; tail -c +"$2" "$1/out" 2>/dev/null; [ "$lives" = 0 ] || exit 9`;
/** Waits a little for the answer: each program that the guest agent runs costs as much. */
const sendScript = `${lives('$2')} && cat >"$1/in" || exit 9
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
  [ "$(wc -c <"$1/out")" -lt "$3" ] || break
  sleep 0.02
done
tail -c +"$3" "$1/out"`;
const endScript = `kill -KILL -"$2" 2>/dev/null || kill -KILL "$2" 2>/dev/null
for i in 1 2 3 4 5 6 7 8 9 10; do ${lives('$2')} || break; sleep 0.1; done
rm -rf "$1"
! ${lives('$2')}`;
const pollMs = 20;
const callMs = 5000;
const ended = 9;

/** Starts it; see {@link GuestSession.open}. */
export async function openHeldSession(
  guest: GuestSession,
  clock: Clock,
  command: readonly string[],
  options: ProgramOptions,
): Promise<HeldSession> {
  const started = await guest.run(['/bin/sh', '-c', startScript, 'sh', ...command], {
    ...options,
    input: options.input ?? '',
  });
  const [, directory, pid] = /^(\/\S+) (\d+)\s*$/.exec(started.stdout) ?? [];
  if (started.exitCode !== 0 || directory === undefined)
    throw new TidemarkError('hook-failed', `${command[0]} could not be started: ${started.stderr.slice(-500)}`);
  return new FileSession(guest, clock, directory, Number(pid));
}

class FileSession implements HeldSession {
  #offset = 1;
  #unread = '';
  #isClosed = false;

  constructor(
    private readonly guest: GuestSession,
    private readonly clock: Clock,
    private readonly directory: string,
    readonly pid: number,
  ) {}

  async send(line: string): Promise<void> {
    const args = ['/bin/sh', '-c', sendScript, 'sh', this.directory, String(this.pid), String(this.#offset)];
    const { exitCode, stdout } = await this.guest.run(args, { input: `${line}\n`, timeoutMs: callMs });
    if (exitCode !== 0) throw new TidemarkError('hook-failed', 'The session has ended.');
    this.#hear(stdout);
  }

  async expect(pattern: RegExp, timeoutMs: number): Promise<string> {
    const untilMs = this.clock.monotonicMs() + timeoutMs;
    for (let isOpen = true; ; isOpen = await this.#read()) {
      const match = pattern.exec(this.#unread);
      if (match !== null) {
        const end = match.index + match[0].length;
        const text = this.#unread.slice(0, end);
        this.#unread = this.#unread.slice(end);
        return text;
      }
      if (!isOpen) throw new TidemarkError('hook-failed', `The session has ended: ${this.#unread.slice(-500)}`);
      if (this.clock.monotonicMs() >= untilMs)
        throw new TidemarkError('timed-out', `The session did not answer within ${Math.round(timeoutMs)} ms.`);
      await sleep(this.clock, pollMs);
    }
  }

  async isOpen(): Promise<boolean> {
    return !this.#isClosed && this.#read();
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    const args = ['/bin/sh', '-c', endScript, 'sh', this.directory, String(this.pid)];
    const { exitCode } = await this.guest.run(args, { timeoutMs: callMs });
    if (exitCode !== 0) throw new TidemarkError('hook-failed', `Session ${this.pid} does not end.`);
    this.#isClosed = true;
  }

  /** False: it has ended. */
  async #read(): Promise<boolean> {
    const args = ['/bin/sh', '-c', readScript, 'sh', this.directory, String(this.#offset), String(this.pid)];
    const { exitCode, stdout } = await this.guest.run(args, { timeoutMs: callMs });
    this.#hear(stdout);
    return exitCode !== ended;
  }

  #hear(text: string): void {
    this.#offset += Buffer.byteLength(text);
    this.#unread += text;
  }
}
