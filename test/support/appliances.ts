/** Appliances that tests make: the executable that they are given, and their end, also when the test failed. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { agentExecutable } from './agent-executable.js';
import type { Laboratory } from './laboratory.js';

/** One file that starts the agent of this checkout; `mark` makes it another one by its content. */
export async function applianceBundle(lab: Laboratory, mark: string): Promise<string> {
  const { command, args, env } = await agentExecutable(lab.processes);
  const words = Object.entries(env).map(([name, value]) => `${name}=${quote(value)}`);
  const file = lab.path('bundles', `tidemark-${mark}`);
  const line = [...words, 'exec', ...[command, ...args].map(quote)].join(' ');
  writeFileSync(file, `#!/bin/sh\n# ${mark}\n${line} "$@"\n`, { mode: 0o755 });
  return file;
}

/** Ends what runs of the appliances in the directory and those in it, by the ids that they wrote, only if they are theirs. */
export function endAppliances(directory: string): void {
  for (const name of ['', ...readdirSync(directory)])
    for (const file of ['service.pid', 'agent.pid']) {
      const pid = Number(textOf(join(directory, name, file)));
      if (pid > 1 && textOf(`/proc/${pid}/cmdline`).includes(join(directory, name))) kill(pid);
    }
}

/** Whether the agent of an appliance runs. */
export function agentPid(directory: string): number | undefined {
  const pid = Number(textOf(join(directory, 'agent.pid')));
  return pid > 1 && textOf(`/proc/${pid}/cmdline`).includes(directory) ? pid : undefined;
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}

function quote(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
