/** What vssadmin and diskshadow say of VSS writers. */

export interface Writer {
  readonly name: string;
  /** Of one start of the writer. */
  readonly instance: string;
  /** VSS_WRITER_STATE: 1 is stable, 2 to 5 are on the way, all others have failed. */
  readonly state: number;
  readonly stateText: string;
  readonly lastError: string;
}

const stable = 1;
const waiting = [2, 3, 4, 5];

/** Of `vssadmin list writers`; by form, for its words are those of the guest's language. */
export function writersOf(text: string): Writer[] {
  return text.split(/\n\s*\n/).flatMap((block) => {
    const lines = block.split('\n').filter((line) => line.trim() !== '');
    const name = /^[^']*'(.+)'\s*$/.exec(lines[0] ?? '')?.[1];
    const ids = lines.flatMap((line) => /\{([0-9a-f-]{36})\}\s*$/i.exec(line)?.[1] ?? []);
    const [, state, stateText = ''] = /\[(\d+)\]\s*(.*?)\s*$/m.exec(block) ?? [];
    const lastError = /:\s*(.*?)\s*$/.exec(lines.at(-1) ?? '')?.[1];
    const isWhole = lines.length === 5 && ids.length === 2 && state !== undefined && lastError !== undefined;
    if (name === undefined || !isWhole) return [];
    return [{ name, instance: ids[1]!, state: Number(state), stateText, lastError }];
  });
}

/** Whether it is only on the way to be stable. */
export function isWaiting({ state }: Writer): boolean {
  return waiting.includes(state);
}

/** What is wrong with it, in words; undefined: nothing. */
export function problemOf({ name, state, stateText, lastError }: Writer, noErrorText: string): string | undefined {
  if (state === stable && lastError === noErrorText) return undefined;
  return `${name} is [${state}] ${stateText}, last error: ${lastError}`;
}

/** Of `list writers detailed` (diskshadow): the directories of the components of each writer that `isOurs` names. */
export function pathsOf(text: string, isOurs: (writer: string) => boolean): string[] {
  const paths = new Set<string>();
  let takes = false;
  let isOfPaths = false;
  for (const line of text.split('\n')) {
    const writer = /^\s*\* WRITER "(.+)"/.exec(line)?.[1];
    if (writer !== undefined) takes = isOurs(writer);
    const item = /^\s*-\s+(.*?)\s*$/.exec(line)?.[1];
    if (/^\s*[-+*]?\s*\S.*(:|")\s*$/.test(line)) isOfPaths = /Paths affected by this component:\s*$/.test(line);
    else if (takes && isOfPaths && item !== undefined && /^([A-Za-z]:\\|\\\\)/.test(item)) paths.add(item);
  }
  return [...paths];
}
