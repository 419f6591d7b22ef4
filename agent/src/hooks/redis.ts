/**
 * redis: writes are paused by the server itself, for a time that ends by itself; then all that it has written to its
 * append-only file is flushed by an fsync of those files from outside: it holds for the file, whoever wrote it, whatever
 * appendfsync says. WAITAOF would prove nothing here: it waits for the writes of the connection that asks.
 *
 * That the pause was unbroken is proven by the guest's monotonic clock, which runs from before the pause to after its end,
 * and by the append-only file: not a byte was added to it, by the same start of the server.
 */
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import type { Finding, Hook, HookModule, HookStep, Prepared, Verified } from './hook.js';
import { redisDocument } from './redis-document.js';
import { answersOf, configOf, findingsOf, infoSchema, type Info } from './redis-info.js';
import { secretOf } from './secret-file.js';
import type { HookSettingsOf } from './settings.js';

type Settings = HookSettingsOf<'redis'>;

/** `sh CLIENT…` with commands on standard input. */
const askScript = 'exec "$@"';
const configCommands = ['dir', 'appenddirname'].map((name) => `CONFIG GET ${name}`);

/** `sh MILLISECONDS DIRECTORY CLIENT…`: the clock, the pause, all of the buffer written, all of the files flushed, INFO. */
const quiesceScript = `set -u
milliseconds=$1 directory=$2
shift 2
read -r up rest </proc/uptime
said=$(echo "CLIENT PAUSE $milliseconds WRITE" | "$@") || exit
[ "$said" = OK ] || { echo "$said" >&2; exit 3; }
until info=$(printf 'INFO server\\nINFO persistence\\n' | "$@") &&
  echo "$info" | tr -d '\\r' | grep -qx 'aof_buffer_length:0'
do sleep 0.02; done
# A rewrite may take a file away in the middle.
sync -- "$directory"/* "$directory" || sync -- "$directory"/* "$directory" || exit
echo "$info"
echo "tidemark_uptime:$up"`;

/** `sh CLIENT…`: INFO while it is still paused, the end of the pause, the clock. */
const releaseScript = `said=$(printf 'INFO server\\nINFO persistence\\nCLIENT UNPAUSE\\n' | "$@") || exit
echo "$said"
[ "$(echo "$said" | tr -d '\\r' | grep . | tail -n 1)" = OK ] || { echo "$said" | tail -n 1 >&2; exit 3; }
read -r up rest </proc/uptime
echo "tidemark_uptime:$up"`;

class Redis implements Hook {
  #directory = '';
  #mayBePaused = false;
  #paused: Info | undefined;
  #resumed: Info | undefined;

  constructor(private readonly settings: Settings) {}

  async prepare(step: HookStep): Promise<Prepared> {
    const input = [...configCommands, 'INFO', ''].join('\n');
    const text = await this.#run(step, askScript, [], input);
    const config = configOf(text);
    if (config === undefined)
      throw new TidemarkError(
        'hook-failed',
        `Redis in ${step.vm} does not say where its data is: ${text.slice(0, 300)}`,
      );
    this.#directory = config.aofDirectory;
    const info = this.#infoOf(step, text);
    const findings = findingsOf(info);
    if (info.aof_rewrite_in_progress === '1')
      findings.push({
        code: 'aof-rewriting',
        reason: 'the append-only file is being rewritten; its first time it is not whole yet',
      });
    // Without an append-only file there need be no such directory.
    if (findings.length === 0) findings.push(...(await step.unprotected([config.aofDirectory])));
    return { findings };
  }

  async quiesce(step: HookStep): Promise<void> {
    this.#mayBePaused = true;
    const args = [String(Math.round(this.settings.pauseSeconds * 1000)), this.#directory];
    this.#paused = this.#infoOf(step, await this.#run(step, quiesceScript, args));
  }

  async release(step: HookStep): Promise<void> {
    if (!this.#mayBePaused) return;
    const text = await this.#run(step, releaseScript, []);
    this.#mayBePaused = false;
    this.#resumed = this.#infoOf(step, text);
  }

  async verify(): Promise<Verified> {
    const [paused, resumed] = [this.#paused, this.#resumed];
    if (paused === undefined || resumed === undefined)
      return { findings: [{ code: 'pause-broken', reason: 'Redis did not say how its pause went' }], verifiedBy: [] };
    const { pauseSeconds } = this.settings;
    const seconds = resumed.tidemark_uptime - paused.tidemark_uptime;
    const findings: Finding[] = findingsOf(resumed);
    const find = (code: string, reason: string): void => void findings.push({ code, reason });
    if (resumed.run_id !== paused.run_id) find('restarted', 'Redis was started anew in the middle of the hold');
    else if (!(seconds < pauseSeconds))
      find(
        'pause-broken',
        `the hold took ${seconds.toFixed(2)} s, and the pause ended by itself after ${pauseSeconds} s`,
      );
    else if (resumed.aof_current_size !== paused.aof_current_size || resumed.aof_buffer_length !== 0)
      find('pause-broken', 'the append-only file was written to, or rewritten, in the middle of the hold');
    if (findings.length > 0) return { findings, verifiedBy: [] };
    return {
      findings: [],
      verifiedBy: [
        `append-only file of ${resumed.aof_current_size} bytes flushed and not written to, ${seconds.toFixed(2)} of ${pauseSeconds} s of pause`,
      ],
      facts: { aofBytes: resumed.aof_current_size },
    };
  }

  async undo(step: HookStep): Promise<string[]> {
    // Whether a pause is on cannot be asked; ending none is no error.
    try {
      await this.#run(step, releaseScript, []);
    } catch (error) {
      // One that does not run pauses nobody.
      if (!isTidemarkError(error, 'hook-failed') || !error.message.includes('Could not connect')) throw error;
    }
    return [];
  }

  async afterRecovery(): Promise<void> {
    // It reads its append-only file by itself, and a pause does not outlive its process.
  }

  #infoOf(step: HookStep, text: string): Info {
    const parsed = infoSchema.safeParse(answersOf(text));
    if (parsed.success) return parsed.data;
    throw new TidemarkError('hook-failed', `Redis in ${step.vm} answers ${text.trim().slice(0, 300)}`);
  }

  async #run(step: HookStep, script: string, args: readonly string[], input = ''): Promise<string> {
    const { client, host, port, socket, user, passwordFile } = this.settings;
    const place = socket === undefined ? ['-h', host, '-p', String(port)] : ['-s', socket];
    const words = [client, ...place, ...(user === undefined ? [] : ['--user', user])];
    const environment = passwordFile === undefined ? undefined : { REDISCLI_AUTH: await secretOf(passwordFile) };
    const { exitCode, stdout, stderr } = await step.guest.run(['/bin/sh', '-c', script, 'sh', ...args, ...words], {
      ...{ input, environment, timeoutMs: step.leftMs() },
    });
    if (exitCode === 0) return stdout;
    throw new TidemarkError('hook-failed', `Redis in ${step.vm} says: ${stderr.trim().slice(-500) || exitCode}`);
  }
}

export const redis: HookModule<'redis'> = {
  kind: 'redis',
  document: redisDocument,
  create: (settings) => new Redis(settings),
};
