/** Commands that start an operation: failover, rollback, commit, verify, group …, journal rebuild, adopt. */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { AgentClient } from '../../client/agent-client.js';
import { parseYaml } from '../../config/load.js';
import { TidemarkError } from '../../core/errors.js';
import { declareGroupSchema } from '../../service/group-spec.js';
import { parseSelector } from '../../service/selector.js';
import { numberOf } from '../arguments.js';
import { formatTable, formatTime } from '../format.js';
import { operationOptions, runOperation, withSession, type CliContext, type OperationOptions } from '../command.js';
import { atHelp } from './views.js';

type Request = Parameters<typeof runOperation>[2];

type StopOptions = OperationOptions & {
  timeout: string;
  forceOff?: boolean;
  sourceStopped?: boolean;
  drainTimeout: string;
};

/** Of what shuts a source's VMs down. */
function stopOptions(command: Command): Command {
  return command
    .option('--timeout <seconds>', 'until a guest that was asked to shut down must be off', '120')
    .option('--force-off', 'end a guest that is not off in time; default: start all again, and fail')
    .option('--source-stopped', 'what writes to disks that are not of VMs was stopped by hand')
    .option('--drain-timeout <seconds>', 'until all that was written must have arrived', '600');
}

function stopArgumentsOf({ timeout, forceOff, sourceStopped, drainTimeout }: StopOptions) {
  return {
    timeoutSeconds: numberOf(timeout, 'timeout'),
    force: forceOff === true ? ('stop' as const) : ('refuse' as const),
    sourceStopped: sourceStopped === true,
    drainSeconds: numberOf(drainTimeout, 'drain-timeout'),
  };
}

export function addTransitionCommands(program: Command, context: CliContext): void {
  /** `GROUP` as argument, the request made of the options. */
  const operation = <Options extends OperationOptions>(
    command: Command,
    make: (group: string, options: Options) => Request,
  ): void => {
    operationOptions(command).action((group: string, options: Options, self: Command) =>
      withSession(context, self, (session) => runOperation(session, options, make(group, options))),
    );
  };
  const now = (): number => context.terminal.nowMs();

  operation<OperationOptions & { at: string; sourceMayBeAlive?: boolean; maxDataLoss?: string }>(
    program
      .command('failover')
      .argument('<group>')
      .description('recover the group here; uncommitted until commit or rollback')
      .option('--at <checkpoint>', atHelp, 'latest')
      .option('--source-may-be-alive', 'go on although the source was not confirmed to be stopped')
      .option('--max-data-loss <seconds>', 'refuse when more would be lost'),
    (group, options) => ({
      kind: 'failover',
      group,
      arguments: {
        at: parseSelector(options.at, now()),
        sourceMayBeAlive: options.sourceMayBeAlive === true,
        ...(options.maxDataLoss === undefined
          ? {}
          : { maxDataLossSeconds: numberOf(options.maxDataLoss, 'max-data-loss') }),
      },
    }),
  );
  operation<OperationOptions & { keepHours?: string }>(
    program
      .command('rollback')
      .argument('<group>')
      .description('undo an uncommitted failover')
      .option('--keep-hours <hours>', "how long its writes stay as a named view; default: the group's setting"),
    (group, options) => ({
      kind: 'rollback',
      group,
      arguments: options.keepHours === undefined ? {} : { keepHours: numberOf(options.keepHours, 'keep-hours') },
    }),
  );
  operation(
    program.command('commit').argument('<group>').description('make a failover permanent; there is no way back'),
    (group) => ({ kind: 'commit', group, arguments: {} }),
  );
  operation(
    program
      .command('boot')
      .argument('<group>')
      .description('after a failover: boot the VMs that do not run, and check again'),
    (group) => ({ kind: 'boot', group, arguments: {} }),
  );
  operation<OperationOptions & { at?: string; journal: boolean; replica: boolean }>(
    program
      .command('verify')
      .argument('<group>')
      .description('read every byte kept and check it (exit code 5 when one is wrong)')
      .option('--no-journal', 'leave the journal out')
      .option('--no-replica', 'leave the replica out')
      .option('--at <checkpoint>', `also read one checkpoint whole: ${atHelp}`),
    (group, options) => ({
      kind: 'verify',
      group,
      arguments: {
        journal: options.journal,
        replica: options.replica,
        ...(options.at === undefined ? {} : { at: parseSelector(options.at, now()) }),
      },
    }),
  );

  const group = program.command('group').description('declare, change, move, mend and remove a group');
  operation<StopOptions>(
    stopOptions(
      group
        .command('move')
        .argument('<group>')
        .description("planned failover: shut the source's VMs down, recover here with nothing lost"),
    ),
    (name, options) => ({ kind: 'move', group: name, arguments: stopArgumentsOf(options) }),
  );
  operation<OperationOptions & { discardSource?: boolean; keepDays: string; encryptionKeyFile?: string }>(
    group
      .command('reverse')
      .argument('<group>')
      .description('after a commit: protect the VMs here back to where they came from; only what differs is sent')
      .option('--discard-source', 'end VMs that still run there; without it that is a split, and refused')
      .option('--keep-days <days>', 'how long the history here, and disks that a recovery made, stay', '7')
      .option('--encryption-key-file <file>', 'on the host of the other agent; needed when the group is encrypted'),
    (name, { discardSource, keepDays, encryptionKeyFile }) => ({
      kind: 'reverse',
      group: name,
      arguments: {
        discardSource: discardSource === true,
        keepOldDisksDays: numberOf(keepDays, 'keep-days'),
        ...(encryptionKeyFile === undefined ? {} : { encryptionKeyFile }),
      },
    }),
  );
  operation<StopOptions & { order?: string[]; target?: string }>(
    stopOptions(
      group
        .command('stop-vms')
        .argument('<group>')
        .description('at the source: shut the VMs down and send all that they wrote (a move asks for this by itself)')
        .option('--order <vm...>', 'shut these down one after the other, behind those that are not named')
        .option('--target <peer>', 'who shall have it all, when there are several'),
    ),
    (name, { order = [], target, ...options }) => ({
      kind: 'stop-vms',
      group: name,
      arguments: {
        ...stopArgumentsOf(options),
        order: order.map((vm) => [vm]),
        ...(target === undefined ? {} : { target }),
      },
    }),
  );
  operation<OperationOptions & { stop: string }>(
    group
      .command('start-vms')
      .argument('<group>')
      .description('at the source: start again what a stop-vms has stopped')
      .requiredOption('--stop <operation>', 'operation id of the stop-vms; of a move: its id with -source behind it'),
    (name, { stop }) => ({ kind: 'start-vms', group: name, arguments: { stop } }),
  );
  group
    .command('declare')
    .argument('<group>')
    .argument('<file>', 'YAML: streams, disks, history, checkpointIntervalSeconds, encryptionKeyFile')
    .description('create or change a target group')
    .action((name: string, file: string, _options, self: Command) =>
      withSession(context, self, async (session) => {
        const spec = parseYaml(read(file), file, declareGroupSchema.shape.spec);
        const status = await session.client.declareGroup(name, { spec });
        session.print(status, () => `group ${name} is declared, policy revision ${status.policyRevision}\n`);
      }),
    );
  group
    .command('remove')
    .argument('<group>')
    .option('--grace-days <days>', 'how long journal and replica stay', '7')
    .description('stop protecting; what is kept stays for some days')
    .action((name: string, options: { graceDays: string }, self: Command) =>
      withSession(context, self, async (session) => {
        await session.client.removeGroup(name, { graceDays: numberOf(options.graceDays, 'grace-days') });
        session.print({ removed: name }, () => `group ${name} is retired\n`);
      }),
    );
  group
    .command('retired')
    .description('groups that were removed, and histories that a reversal closed, as long as they are kept')
    .action((_options, self: Command) =>
      withSession(context, self, async (session) => {
        const groups = await session.client.retiredGroups();
        const rows = groups.map(({ name, why, untilMs }) => [name, why, untilMs === null ? '-' : formatTime(untilMs)]);
        session.print(groups, () =>
          rows.length === 0 ? 'no retired groups\n' : formatTable(['GROUP', 'WHY', 'UNTIL'], rows),
        );
      }),
    );
  group
    .command('restore')
    .argument('<group>')
    .option('--until <time>', 'which of several of that name: its UNTIL, as `group retired` shows it')
    .option('--encryption-key-file <file>', 'on the agent host; default: as before')
    .description('take a removed group back as it was, with its history')
    .action(
      (name: string, { until, encryptionKeyFile }: { until?: string; encryptionKeyFile?: string }, self: Command) =>
        withSession(context, self, async (session) => {
          const untilMs = until === undefined ? undefined : await retiredUntil(session.client, name, until);
          const status = await session.client.restoreGroup(name, {
            ...(untilMs === undefined ? {} : { untilMs }),
            ...(encryptionKeyFile === undefined ? {} : { encryptionKeyFile }),
          });
          session.print(status, () => `group ${name} is back, ${status.state}\n`);
        }),
    );
  operation<OperationOptions & { keep: 'source' | 'target'; branch?: string }>(
    group
      .command('resolve')
      .argument('<group>')
      .description('after a fork: choose whose history goes on')
      .requiredOption('--keep <side>', 'source or target')
      .option('--branch <branch>', 'the branch that is meant, as status shows it'),
    (name, options) => ({
      kind: 'resolve-fork',
      group: name,
      arguments: { keep: options.keep, ...(options.branch === undefined ? {} : { branch: options.branch }) },
    }),
  );
  operation<OperationOptions & { at: string; pin: string; reason: string }>(
    group
      .command('pin')
      .argument('<group>')
      .description('keep a checkpoint whatever retention says')
      .requiredOption('--pin <name>', 'name of the pin')
      .requiredOption('--at <checkpoint>', atHelp)
      .option('--reason <text>', 'why', 'pinned by hand'),
    (name, options) => ({
      kind: 'pin',
      group: name,
      arguments: { pin: options.pin, at: parseSelector(options.at, now()), reason: options.reason },
    }),
  );
  operation<OperationOptions & { pin: string }>(
    group
      .command('unpin')
      .argument('<group>')
      .description('let retention have it again')
      .requiredOption('--pin <name>', 'name of the pin'),
    (name, options) => ({ kind: 'unpin', group: name, arguments: { pin: options.pin } }),
  );
  operation<OperationOptions & { disk: string }>(
    group
      .command('forget-disk')
      .argument('<group>')
      .description('give up a disk that the source does not send any more; checkpoints that have it keep it')
      .requiredOption('--disk <name>', 'the disk'),
    (name, options) => ({ kind: 'forget-disk', group: name, arguments: { disk: options.disk } }),
  );
  operation<OperationOptions & { disk?: string[] }>(
    group
      .command('sync')
      .argument('<group>')
      .description('compare source and replica by digests and mend what differs')
      .option('--disk <name...>', 'only these disks'),
    (name, options) => ({
      kind: 'sync',
      group: name,
      arguments: options.disk === undefined ? {} : { disks: options.disk },
    }),
  );

  const journal = program.command('journal').description('upkeep of journals');
  operation(
    journal
      .command('rebuild')
      .argument('<group>')
      .description("remake the database from the group's journal directory"),
    (name) => ({ kind: 'rebuild', group: name, arguments: {} }),
  );
  operationOptions(
    program
      .command('adopt')
      .argument('<directory>', 'journal directory of the group, on the agent host')
      .description('take over the journal of a dead appliance')
      .requiredOption('--group <group>', 'name of the group here')
      .option('--encryption-key-file <file>', 'on the agent host'),
  ).action(
    (directory: string, options: OperationOptions & { group: string; encryptionKeyFile?: string }, self: Command) =>
      withSession(context, self, (session) =>
        runOperation(session, options, {
          kind: 'adopt',
          group: options.group,
          arguments: {
            directory: resolve(directory),
            ...(options.encryptionKeyFile === undefined
              ? {}
              : { encryptionKeyFile: resolve(options.encryptionKeyFile) }),
          },
        }),
      ),
  );
}

/** By its time to the second, as it is shown. */
async function retiredUntil(client: AgentClient, name: string, text: string): Promise<number> {
  const second = Math.floor(Date.parse(text) / 1000);
  for (const { name: kept, untilMs } of await client.retiredGroups())
    if (kept === name && untilMs !== null && Math.floor(untilMs / 1000) === second) return untilMs;
  throw new TidemarkError('request-invalid', `No retired group ${name} stays until ${text}.`, { path: 'until' });
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    throw new TidemarkError('request-invalid', `cannot read ${file}: ${(cause as Error).message}`, {
      path: file,
      cause,
    });
  }
}
