/** The reference part of docs/cli.md: every command's --help. */
import type { Command } from 'commander';
import { exitCodeMeanings } from './exit-codes.js';
import { createProgram } from './program.js';

export function cliReference(): string {
  const program = createProgram({
    version: '',
    runAgent: () => Promise.resolve(),
    terminal: {
      out: () => {},
      err: () => {},
      isTerminal: false,
      colours: false,
      env: {},
      nowMs: () => 0,
      signal: new AbortController().signal,
    },
  });
  const rows = Object.entries(exitCodeMeanings).map(([code, meaning]) => `| ${code} | ${meaning} |`);
  const parts = ['## Exit codes', '', '| code | meaning |', '|---|---|', ...rows, '', '## Commands', ''];
  visit(program, 'tidemark', parts);
  return `${parts.join('\n')}`;
}

function visit(command: Command, path: string, parts: string[]): void {
  parts.push(`### \`${path}\``, '', '```', command.helpInformation().trimEnd(), '```', '');
  for (const child of command.createHelp().visibleCommands(command))
    if (child.name() !== 'help') visit(child, `${path} ${child.name()}`, parts);
}
