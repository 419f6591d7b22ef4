/** The command line `tidemark`: commands, how errors are shown, exit codes. */
import { Command, CommanderError } from 'commander';
import { isTidemarkError } from '../core/errors.js';
import type { CliContext } from './command.js';
import { addCheckpointCommands } from './commands/checkpoints.js';
import { addDrillCommands } from './commands/drills.js';
import { addExportCommand } from './commands/export.js';
import { addFilesCommands } from './commands/files.js';
import { addHookCommand } from './commands/hook.js';
import { addKeyCommands } from './commands/keys.js';
import { addLocalCommands } from './commands/local.js';
import { addOperationCommands } from './commands/operations.js';
import { addRpoCommand } from './commands/rpo.js';
import { addStatusCommands } from './commands/status.js';
import { addTransitionCommands } from './commands/transitions.js';
import { addViewCommands } from './commands/views.js';
import { addVmCommands } from './commands/vms.js';
import { exitCodeOf, exitCodes, type ExitCode } from './exit-codes.js';
import { columnCount, oneLine } from './format.js';
import { coloursOf } from './terminal.js';

export function createProgram(context: CliContext): Command {
  const { terminal } = context;
  const program = new Command('tidemark')
    .description('Disaster recovery as code: replicate, keep every moment, recover')
    .version(context.version)
    .option('--api <url>', 'agent, https://host:port (TIDEMARK_API)')
    .option('--certificate <file>', 'your certificate, PEM (TIDEMARK_CERTIFICATE)')
    .option('--key <file>', 'its key, PEM (TIDEMARK_KEY)')
    .option('--authority <file>', 'authorities you trust, PEM (TIDEMARK_AUTHORITY)')
    .option('--server-name <name>', "name in the agent's certificate (TIDEMARK_SERVER_NAME)")
    .option('--context <file>', 'context file (TIDEMARK_CONTEXT)')
    .option('--json', 'print JSON')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => terminal.out(text),
      writeErr: (text) => terminal.err(text),
      getOutHelpWidth: () => columnCount,
      getErrHelpWidth: () => columnCount,
    })
    .showHelpAfterError('(see --help)');
  addStatusCommands(program, context);
  addRpoCommand(program, context);
  addCheckpointCommands(program, context);
  addViewCommands(program, context);
  addExportCommand(program, context);
  addFilesCommands(program, context);
  addTransitionCommands(program, context);
  addDrillCommands(program, context);
  addOperationCommands(program, context);
  addHookCommand(addVmCommands(program, context), context);
  addKeyCommands(program, context);
  addLocalCommands(program, context);
  return program;
}

/** Runs one command line (without the program's own name); never throws. */
export async function runCli(args: readonly string[], context: CliContext): Promise<ExitCode> {
  const { terminal } = context;
  try {
    await createProgram(context).parseAsync([...args], { from: 'user' });
    return exitCodes.ok;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
    const { red, dim } = coloursOf(terminal);
    const message = error instanceof Error ? error.message : String(error);
    const text = message
      .split('\n')
      .map((line) => oneLine(line))
      .join('\n');
    if (args.includes('--json') && isTidemarkError(error)) {
      const { code, hint, path, retry } = error;
      terminal.err(`${JSON.stringify({ code, message, hint, path: path ?? null, retry })}\n`);
    } else if (isTidemarkError(error)) terminal.err(`${red(`${error.code}:`)} ${text}\n${dim(error.hint)}\n`);
    else terminal.err(`${red('failed:')} ${text}\n`);
    return exitCodeOf(error);
  }
}
