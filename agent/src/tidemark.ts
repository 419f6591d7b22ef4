/** What the executable `tidemark` does, unless it is the guard. */
import 'reflect-metadata';
import { runAgent } from './agent.js';
import { runAgentProcess } from './cli/agent-process.js';
import { runCli } from './cli/program.js';
import { processTerminal } from './cli/terminal.js';

declare const __TIDEMARK_VERSION__: string | undefined;
const version = typeof __TIDEMARK_VERSION__ === 'string' ? __TIDEMARK_VERSION__ : 'development';

/** `args`: without the program's own name. */
export async function runTidemark(args: readonly string[]): Promise<void> {
  const interrupted = new AbortController();
  // `agent run` has its own handling; for all else ^C ends the wait, a second one the process.
  if (args[0] !== 'agent') process.once('SIGINT', () => interrupted.abort(new Error('interrupted')));
  process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
  const terminal = processTerminal(interrupted.signal);
  process.exitCode = await runCli(args, {
    terminal,
    version,
    runAgent: (file) => runAgentProcess(file, version, runAgent),
  });
  // Whatever may still be open after an orderly end must not hold the process.
  if (args[0] === 'agent') process.exit();
}
