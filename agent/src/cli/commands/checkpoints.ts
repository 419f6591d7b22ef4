/** tidemark checkpoints list | create */
import type { Command } from 'commander';
import { TidemarkError } from '../../core/errors.js';
import type { Checkpoint } from '../../service/checkpoint-schemas.js';
import { parseSelector } from '../../service/selector.js';
import { timeOf } from '../arguments.js';
import { withSession, type CliContext, type Session } from '../command.js';
import { applicationText } from '../application-text.js';
import { formatTable, formatTime } from '../format.js';
import { renderTimeline } from '../timeline.js';

/** The picture reads at most this many. */
const timelineCountMax = 20_000;

interface ListOptions {
  kind?: string;
  label?: string;
  from?: string;
  to?: string;
  limit: string;
  timeline?: boolean;
}

export function addCheckpointCommands(program: Command, context: CliContext): void {
  const checkpoints = program.command('checkpoints').alias('checkpoint').description('list and make checkpoints');
  checkpoints
    .command('list', { isDefault: true })
    .argument('[group]', 'default: the only group')
    .description('list, newest first (default)')
    .option('--kind <kind>', 'crash, application or tagged')
    .option('--label <label>', 'only with this label')
    .option('--from <time>', 'ISO time, or -2h')
    .option('--to <time>', 'ISO time, or -2h')
    .option('--limit <count>', 'at most this many', '20')
    .option('--timeline', 'show the journal as a picture')
    .action((group: string | undefined, options: ListOptions, command: Command) =>
      withSession(context, command, (session) => list(session, group, options)),
    );
  checkpoints
    .command('show')
    .argument('<group>')
    .argument('[checkpoint]', 'latest, latest-application, an id, label:LABEL, a time, -15m', 'latest-application')
    .description('what a checkpoint is, and how its hold was proven')
    .action((group: string, at: string, _options: object, command: Command) =>
      withSession(context, command, async (session) => {
        const found = await session.client.resolveCheckpoint(group, parseSelector(at, session.terminal.nowMs()));
        session.print(found, () => `${checkpointTable([found])}${applicationText(found)}`);
      }),
    );
  checkpoints
    .command('create')
    .argument('<group>')
    .description('make a checkpoint now, through the hooks if the group has some, and wait until it is durable')
    .option('--label <label>', "a person's words, to find it by")
    .option('--application', 'quiesce the applications by the hooks of the group; an error when it has none')
    .option('--tagged', 'mark at once, without hooks')
    .action((group: string, options: CreateOptions, command: Command) =>
      withSession(context, command, async (session) => {
        const checkpoint = await session.client.createCheckpoint(group, {
          ...kindOf(options),
          ...(options.label === undefined ? {} : { label: options.label }),
        });
        session.print(checkpoint, () => createdText(checkpoint));
      }),
    );
}

interface CreateOptions {
  label?: string;
  application?: boolean;
  tagged?: boolean;
}

function kindOf({ application, tagged }: CreateOptions): { kind?: 'application' | 'tagged' } {
  if (application === true && tagged === true)
    throw new TidemarkError('request-invalid', 'Give --application or --tagged, not both.', { path: 'tagged' });
  if (application === true) return { kind: 'application' };
  return tagged === true ? { kind: 'tagged' } : {};
}

function createdText(checkpoint: Checkpoint): string {
  const first = `checkpoint ${checkpoint.id} ${formatTime(checkpoint.sourceTimeMs)} ${checkpoint.kind}\n`;
  return `${first}${applicationText(checkpoint)}`;
}

async function list(session: Session, name: string | undefined, options: ListOptions): Promise<void> {
  const group = await session.groupName(name);
  const nowMs = session.terminal.nowMs();
  const limit = options.timeline === true ? timelineCountMax : countOf(options.limit);
  const query = {
    ...(options.kind === undefined ? {} : { kind: options.kind }),
    ...(options.label === undefined ? {} : { label: options.label }),
    ...(options.from === undefined ? {} : { fromMs: timeOf(options.from, nowMs, 'from') }),
    ...(options.to === undefined ? {} : { toMs: timeOf(options.to, nowMs, 'to') }),
  };
  const found = await collect(session, group, query, limit);
  if (options.timeline !== true || session.json) return session.print(found, () => checkpointTable(found));
  const { disks } = await session.client.group(group);
  const positions = disks.flatMap((disk) => disk.replica?.sourceTimeMs ?? []);
  const replicaMs = positions.length === 0 ? null : Math.min(...positions);
  session.terminal.out(`${session.colours.bold(group)}\n${renderTimeline({ checkpoints: found, nowMs, replicaMs })}`);
}

async function collect(
  session: Session,
  group: string,
  query: Record<string, string | number>,
  limit: number,
): Promise<Checkpoint[]> {
  const found: Checkpoint[] = [];
  let before: string | null = null;
  do {
    const page = await session.client.checkpoints(group, {
      ...query,
      limit: Math.min(1000, limit - found.length),
      ...(before === null ? {} : { before }),
    });
    found.push(...page.checkpoints);
    before = page.next;
  } while (before !== null && found.length < limit);
  return found;
}

function checkpointTable(checkpoints: readonly Checkpoint[]): string {
  if (checkpoints.length === 0) return 'no checkpoints\n';
  const rows = checkpoints.map((point) => [
    point.id,
    formatTime(point.sourceTimeMs),
    point.kind,
    point.complete ? 'all' : `${point.disksPresent} of ${point.diskCount}`,
    String(point.epoch),
    point.pins.map((pin) => pin.id).join(' '),
    point.label ?? '',
  ]);
  return formatTable(['CHECKPOINT', 'TIME', 'KIND', 'DISKS', 'EPOCH', 'PINS', 'LABEL'], rows);
}

function countOf(text: string): number {
  const count = Number(text);
  if (Number.isSafeInteger(count) && count >= 1 && count <= 100_000) return count;
  throw new TidemarkError('request-invalid', `--limit is a number from 1 to 100000, not ${JSON.stringify(text)}`, {
    path: 'limit',
  });
}
