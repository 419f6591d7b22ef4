/**
 * Puts an agent on a host, changes it in place, takes it away. Every step may run twice. What was there goes on until the
 * new generation is whole on the host and its own executable has understood its configuration; then one rename, a restart,
 * and the new agent must answer as ready, or the old generation is put back.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { isTidemarkError, TidemarkError } from '../agent-client.js';
import type { Bundle } from './bundle.js';
import type { Host } from './host.js';
import { generationId, markerSchema, paths, type Generation, type Marker, type ServicePlace } from './layout.js';
import { readFile, sh, upload, writeFile } from './scripts.js';
import {
  isRunning,
  logTail,
  removeService,
  restartService,
  serviceKind,
  startCount,
  type ServiceKind,
} from './service.js';

const endingMs = 1000;
/** The service manager starts an agent that ends again; so often, and it is not one that works. */
const startsMax = 3;

export interface Installation {
  readonly place: ServicePlace;
  readonly marker: Marker;
  readonly bundle: Bundle;
  readonly generation: Generation;
  /** Resolves when the agent that was started last answers as ready. */
  readonly ready: (signal: AbortSignal) => Promise<void>;
  /** Aborts when nobody waits any more. */
  readonly signal: AbortSignal;
  readonly tell: (text: string) => void;
}

/** What is on a host. */
export interface Found {
  readonly marker: Marker;
  /** Id of the generation that `current` names; empty: none yet. */
  readonly generation: string;
  readonly running: boolean;
}

/** Undefined: no appliance. Throws `host-failed` for a marker that cannot be understood. */
export async function inspect(host: Host, { directory, agent }: ServicePlace): Promise<Found | undefined> {
  const { marker: file, current } = paths(directory);
  const text = await readFile(host, file);
  if (text === undefined) return undefined;
  const marker = markerSchema.safeParse(parse(text));
  if (!marker.success) throw new TidemarkError('host-failed', `${file} on ${host.name} cannot be understood.`);
  const link = (await host.run('readlink "$1"', [current])).stdout.trim();
  const running = await isRunning(host, await serviceKind(host), directory, agent);
  return { marker: marker.data, generation: link.split('/').at(-1) ?? '', running };
}

/** True when something was changed. */
export async function install(host: Host, installation: Installation): Promise<boolean> {
  const { place, marker, bundle, generation, tell } = installation;
  const { directory } = place;
  const at = paths(directory);
  const kind = await serviceKind(host);
  const before = await inspect(host, place);
  const id = generationId(generation);
  if (before?.marker.owner !== marker.owner) await writeFile(host, at.marker, `${JSON.stringify(marker)}\n`, '0600');
  if (before?.generation === id && before.running) {
    await installation.ready(installation.signal);
    return false;
  }
  tell('copying the agent');
  await upload(host, at.bundle(bundle.sha256), bundle.sha256, () => bundle.open());
  tell('writing its configuration');
  await writeGeneration(host, directory, id, generation);
  // Never an empty directory in place of a journal that is not mounted.
  const mkdir = `umask 077; if [ -n "$3" ]; then sh "$3.mount" "$3" || exit; fi
    mkdir -p "$1" "$2" && chmod 0700 "$1" "$2"`;
  await sh(host, 'making directories', mkdir, [place.dataDirectory, at.sockets, place.mountPoint]);
  const check = '"$1/tidemark" config check "$1/agent.yaml"';
  await sh(host, 'checking the configuration', check, [at.generation(id)]);
  tell('starting the agent');
  await point(host, at.current, id);
  try {
    await restartService(host, kind, place);
    await readyOrEnding(host, kind, installation);
  } catch (error) {
    const tail = await logTail(host, kind, directory, place.agent).catch(() => '');
    await goBack(host, installation, before?.generation ?? '');
    throw refused(error, before, tail);
  }
  if (before !== undefined && before.generation !== '') await point(host, at.previous, before.generation);
  await clean(host, directory);
  return true;
}

/** Journals, replicas and scratch stay unless `data` is to go. */
export async function uninstall(host: Host, place: ServicePlace, data: 'keep' | 'remove'): Promise<void> {
  const { directory, agent } = place;
  await removeService(host, await serviceKind(host), directory, agent);
  // The marker goes last: until then the removal can be asked for again.
  const script = `rm -rf "$1/bundles" "$1/generations" "$1/nbd" "$1/current" "$1/previous" "$1/service" &&
    rm -f "$1"/service.pid "$1"/service.starts "$1"/agent.pid "$1"/agent.log "$1"/agent.log.1 || exit
    if [ "$2" = remove ]; then rm -rf "$1/data" || exit; fi
    rm -f "$1/appliance.json" && { rmdir "$1" 2>/dev/null; true; }`;
  await sh(host, 'removing the appliance', script, [directory, data]);
}

async function writeGeneration(host: Host, directory: string, id: string, generation: Generation): Promise<void> {
  const at = paths(directory);
  const own = at.generation(id);
  await writeFile(host, `${own}/pki/agent.key`, generation.key, '0600');
  await writeFile(host, `${own}/pki/agent.crt`, generation.certificate, '0644');
  await writeFile(host, `${own}/pki/ca.crt`, generation.authority, '0644');
  // JSON is YAML. The paths in it are relative to the file.
  await writeFile(host, `${own}/agent.yaml`, `${JSON.stringify(generation.config, null, 2)}\n`, '0600');
  const link = 'ln -sfn "$1" "$2"';
  await sh(host, 'linking the agent', link, [at.bundle(generation.bundleSha256), `${own}/tidemark`]);
}

async function point(host: Host, link: string, id: string): Promise<void> {
  const script = 'ln -sfn "generations/$2" "$1.partial" && mv -fT "$1.partial" "$1" && sync "$(dirname "$1")"';
  await sh(host, `pointing ${link}`, script, [link, id]);
}

async function goBack(host: Host, { place, ready, signal, tell }: Installation, generation: string): Promise<void> {
  const kind = await serviceKind(host);
  if (generation === '') return removeService(host, kind, place.directory, place.agent);
  tell('back to the agent that was there');
  await point(host, paths(place.directory).current, generation);
  await restartService(host, kind, place);
  await ready(signal);
}

/** An agent that ends again and again is not waited for. */
async function readyOrEnding(host: Host, kind: ServiceKind, { place, ready, signal }: Installation): Promise<void> {
  const settled = new AbortController();
  const both = AbortSignal.any([settled.signal, signal]);
  const ending = async (): Promise<never> => {
    for (;;) {
      await pause(endingMs, undefined, { signal: both });
      if ((await startCount(host, kind, place.directory, place.agent)) >= startsMax)
        throw new TidemarkError('host-failed', 'It ends again and again.');
    }
  };
  try {
    await Promise.race([ready(both), ending()]);
  } finally {
    settled.abort();
  }
}

function refused(error: unknown, before: Found | undefined, tail: string): unknown {
  if (!isTidemarkError(error)) return error;
  const back =
    before === undefined || before.generation === '' ? 'It was stopped.' : 'The one that was there runs again.';
  return new TidemarkError(
    error.code,
    `The new agent does not work: ${error.message} ${back}${tail === '' ? '' : `\nIts log: ${tail}`}`,
    { cause: error },
  );
}

/** Generations that are neither current nor the one before, and executables that none of them uses. */
async function clean(host: Host, directory: string): Promise<void> {
  const script = `cd "$1" || exit
    keep="$(readlink current) $(readlink previous)"
    for each in generations/*; do case " $keep " in *" $each "*) ;; *) rm -rf "$each" ;; esac; done
    used=$(readlink generations/*/tidemark)
    for each in bundles/*; do case "$used" in *"$each/"*) ;; *) rm -rf "$each" ;; esac; done`;
  await sh(host, 'cleaning up', script, [directory]);
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
