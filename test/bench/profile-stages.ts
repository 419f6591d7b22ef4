/** Where a process spent its CPU: V8 profiles of the bundle, folded to the folders of agent/src by their source map. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { SourceMap, type SourceMapConstructorOptions, type SourceMapPayload } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

interface Profile {
  readonly nodes: readonly {
    readonly id: number;
    readonly callFrame: {
      readonly functionName: string;
      readonly url: string;
      readonly lineNumber: number;
      readonly columnNumber: number;
    };
  }[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

/** Seconds of the main thread by stage, largest first. Idle time is left out. */
export interface StageSeconds {
  readonly stage: string;
  readonly seconds: number;
}

/** The main thread's profile that `node --cpu-prof --cpu-prof-dir=directory` of that pid wrote, its start left out. */
export function readStages(directory: string, pid: number, skipSeconds: number): StageSeconds[] {
  const file = readdirSync(directory).find((name) => new RegExp(`\\.${pid}\\.0\\.\\d+\\.cpuprofile$`).test(name));
  if (file === undefined) throw new Error(`no profile of process ${pid} in ${directory}`);
  const profile = JSON.parse(readFileSync(join(directory, file), 'utf8')) as Profile;
  const maps = new Map<string, SourceMap | undefined>();
  const stages = new Map(profile.nodes.map(({ id, callFrame }) => [id, stageOf(callFrame, maps)]));
  const seconds = new Map<string, number>();
  let atUs = 0;
  for (const [index, id] of profile.samples.entries()) {
    atUs += profile.timeDeltas[index] ?? 0;
    if (atUs < skipSeconds * 1e6) continue;
    const stage = stages.get(id)!;
    seconds.set(stage, (seconds.get(stage) ?? 0) + (profile.timeDeltas[index] ?? 0) / 1e6);
  }
  seconds.delete('(idle)');
  return [...seconds].map(([stage, value]) => ({ stage, seconds: value })).sort((a, b) => b.seconds - a.seconds);
}

function stageOf(frame: Profile['nodes'][number]['callFrame'], maps: Map<string, SourceMap | undefined>): string {
  const { functionName, url, lineNumber, columnNumber } = frame;
  if (functionName === '(idle)' || functionName === '(garbage collector)') return functionName;
  if (url.startsWith('node:')) return `Node (${url.slice(5).replace('internal/', '').split('/')[0]!})`;
  if (url === '') return 'V8, system calls and native code';
  const original = sourceMap(url, maps)?.findEntry(lineNumber, columnNumber);
  const source = original !== undefined && 'originalSource' in original ? original.originalSource : url;
  return /agent\/src\/([^/]+)\//.exec(source)?.[1] ?? /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(source)?.[1] ?? 'other';
}

function sourceMap(url: string, maps: Map<string, SourceMap | undefined>): SourceMap | undefined {
  if (!maps.has(url)) {
    const file = url.startsWith('file:') ? `${fileURLToPath(url)}.map` : '';
    maps.set(url, existsSync(file) ? new SourceMap(payload(file), {} as SourceMapConstructorOptions) : undefined);
  }
  return maps.get(url);
}

function payload(file: string): SourceMapPayload {
  return JSON.parse(readFileSync(file, 'utf8')) as SourceMapPayload;
}
