/** tidemark rpo */
import { writeFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { TidemarkError } from '../../core/errors.js';
import { timeOf } from '../arguments.js';
import { withSession, type CliContext, type Session } from '../command.js';
import { renderRpo, rpoSvg } from '../rpo-chart.js';

interface RpoOptions {
  from: string;
  svg?: string;
}

export function addRpoCommand(program: Command, context: CliContext): void {
  program
    .command('rpo')
    .argument('[group]', 'default: the only group')
    .description('the RPO over time, as a picture; the agent keeps a day of it, from its last start on')
    .option('--from <time>', 'ISO time, or -2h', '-1h')
    .option('--svg <file>', 'write the picture as SVG, too')
    .action((group: string | undefined, options: RpoOptions, command: Command) =>
      withSession(context, command, (session) => show(session, group, options)),
    );
}

async function show(session: Session, name: string | undefined, { from, svg }: RpoOptions): Promise<void> {
  const group = await session.groupName(name);
  const toMs = session.terminal.nowMs();
  const fromMs = timeOf(from, toMs, 'from');
  if (fromMs >= toMs) throw new TidemarkError('request-invalid', '--from is a time in the past', { path: 'from' });
  const history = await session.client.rpoHistory(group, { fromMs });
  const picture = { history, fromMs, toMs };
  if (svg !== undefined)
    await writeFile(svg, rpoSvg(picture)).catch((cause: Error) => {
      throw new TidemarkError('request-invalid', `--svg: ${cause.message}`, { path: 'svg', cause });
    });
  session.print(history, () => `${session.colours.bold(group)}\n${renderRpo(picture, session.colours)}`);
}
