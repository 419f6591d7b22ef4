/** What is done on hosts, in words of a POSIX shell. Paths are arguments, contents are standard input. */
import type { Readable } from 'node:stream';
import { TidemarkError } from '../agent-client.js';
import type { Host, RunOptions } from './host.js';

/** The script's standard output; `host-failed` with its own words when it does not end with 0. */
export async function sh(
  host: Host,
  what: string,
  script: string,
  args: readonly string[],
  options?: RunOptions,
): Promise<string> {
  const { code, stdout, stderr } = await host.run(script, args, options);
  if (code === 0) return stdout;
  const words = (stderr.trim() || stdout.trim()).split('\n').slice(-5).join(' / ');
  throw new TidemarkError('host-failed', `${what} on ${host.name} ended with ${code}: ${words}`);
}

/** Replaces a file: after a crash there is the old one or the new one. `mode` in octal digits. */
export async function writeFile(host: Host, path: string, text: string, mode: string): Promise<void> {
  const script = `umask 077; mkdir -p "$(dirname "$1")" && cat >"$1.partial" && chmod "$2" "$1.partial" &&
    sync "$1.partial" && mv -f "$1.partial" "$1"`;
  await sh(host, `writing ${path}`, script, [path, mode], { input: text });
}

/** Undefined: it is not there. */
export async function readFile(host: Host, path: string): Promise<string | undefined> {
  const text = await sh(host, `reading ${path}`, 'if [ -e "$1" ]; then printf 1; cat "$1"; fi', [path]);
  return text === '' ? undefined : text.slice(1);
}

const uploadMs = 600_000;

/** Puts an executable there whose SHA-256 is known; what lies there already and is the same is not sent again. */
export async function upload(host: Host, path: string, sha256: string, open: () => Readable): Promise<void> {
  const same = '[ "$(sha256sum <"$1" 2>/dev/null | cut -d" " -f1)" = "$2" ]';
  if ((await host.run(same, [path, sha256])).code === 0) return;
  const script = `umask 077; mkdir -p "$(dirname "$1")" && cat >"$1.partial" || exit
    [ "$(sha256sum <"$1.partial" | cut -d" " -f1)" = "$2" ] || { echo "it arrived damaged" >&2; exit 1; }
    chmod 0755 "$1.partial" && sync "$1.partial" && mv -f "$1.partial" "$1"`;
  await sh(host, `copying ${path}`, script, [path, sha256], { input: open(), timeoutMs: uploadMs });
}
