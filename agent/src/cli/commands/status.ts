/** tidemark status, groups, peers */
import type { Command } from 'commander';
import type { GroupStatus } from '../../service/group-schemas.js';
import { withSession, type CliContext, type Session } from '../command.js';
import { formatBytes, formatSeconds, formatTable, formatTime, oneLine, sparkline } from '../format.js';
import { renderProgress } from '../progress.js';
import { checkpointGaps } from '../timeline.js';

/** Intervals in the sparkline. */
const gapCount = 30;

export function addStatusCommands(program: Command, context: CliContext): void {
  program
    .command('status')
    .argument('[group]', 'only this group')
    .description('state of the agent and its groups')
    .action((name: string | undefined, _options, command: Command) =>
      withSession(context, command, (session) => showStatus(session, name)),
    );
  program
    .command('groups')
    .description('list the groups')
    .action((_options, command: Command) =>
      withSession(context, command, async (session) => {
        const groups = await session.client.groups();
        session.print(groups, () => groupTable(groups));
      }),
    );
  program
    .command('peers')
    .description('list the other agents')
    .action((_options, command: Command) =>
      withSession(context, command, async (session) => {
        const peers = await session.client.peers();
        const rows = peers.map((peer) => [
          peer.name,
          peer.connected ? 'connected' : 'away',
          peer.address ?? '-',
          peer.groups.join(' '),
          peer.lastSeenMs === null ? 'never' : formatTime(peer.lastSeenMs),
        ]);
        session.print(peers, () => formatTable(['PEER', 'STATE', 'ADDRESS', 'GROUPS', 'LAST SEEN'], rows));
      }),
    );
}

async function showStatus(session: Session, name: string | undefined): Promise<void> {
  const [agent, health, groups] = await Promise.all([
    session.client.agent(),
    session.client.health(),
    name === undefined ? session.client.groups() : session.client.group(name).then((group) => [group]),
  ]);
  if (session.json) return session.print({ agent, health, groups }, () => '');
  const { out } = session.terminal;
  const { bold, red, dim } = session.colours;
  out(
    `${bold(`${agent.site}/${agent.name}`)} ${agent.version}, up ${formatSeconds(agent.uptimeSeconds)}${health.ready ? '' : red(', not ready')}\n`,
  );
  for (const check of health.checks.filter(({ ok }) => !ok)) out(red(`  ${check.name}: ${oneLine(check.message)}\n`));
  for (const group of groups) {
    out(`\n${groupText(group, session)}`);
    const gaps = await recentGaps(session, group);
    if (gaps.length > 1)
      out(
        dim(
          `  RPO         ${sparkline(gaps)} last ${gaps.length} intervals, longest ${formatSeconds(Math.max(...gaps))}\n`,
        ),
      );
  }
  if (groups.length === 0) out('no groups\n');
}

/** A source group has no list of checkpoints; that is no reason to fail. */
async function recentGaps(session: Session, group: GroupStatus): Promise<number[]> {
  if (group.role === 'source') return [];
  return checkpointGaps((await session.client.checkpoints(group.name, { limit: gapCount + 1 })).checkpoints);
}

function groupText(group: GroupStatus, session: Session): string {
  const { bold, yellow, green, red } = session.colours;
  const paint =
    group.state === 'protecting' ? green : group.state === 'forked' || group.state === 'fenced' ? red : yellow;
  const lines = [
    `${bold(group.name)} ${group.role}  ${paint(group.state)}  RPO ${formatSeconds(group.rpoSeconds)}  epoch ${group.epoch?.epoch ?? '-'}`,
  ];
  const newest = group.newestCheckpoint;
  lines.push(
    `  checkpoint  ${newest === null ? 'none yet' : `${newest.id} ${formatTime(newest.sourceTimeMs)}`}, every ${formatSeconds(group.effectiveIntervalSeconds)}`,
  );
  for (const link of group.links) {
    const held = link.bufferBytes + link.spoolBytes;
    lines.push(
      `  link        ${link.peer} ${link.state}${link.stage === null ? '' : `, ${link.stage}`}, ${formatBytes(link.bytesPerSecond)}/s, ${formatBytes(held)} not durable`,
    );
    if (link.lastError !== null && link.state !== 'connected')
      lines.push(`              ${red(oneLine(link.lastError.message))}`);
  }
  for (const sync of group.syncs)
    lines.push(`  ${renderProgress(`sync ${sync.kind}`, sync, session.terminal.nowMs() - sync.startedMs)}`);
  if (group.journal !== null)
    lines.push(
      `  journal     ${formatBytes(group.journal.bytes)} of ${formatBytes(group.journal.hardLimitBytes)}, ${group.journal.checkpointCount} checkpoints`,
    );
  lines.push(
    `  disks       ${group.disks.map((disk) => `${disk.name} ${formatBytes(disk.sizeBytes)}${disk.state === 'attached' ? '' : ` (${disk.state})`}`).join(', ')}`,
  );
  for (const { vm, hypervisor, state, disks } of group.vms ?? [])
    lines.push(`  vm          ${oneLine(vm)} on ${hypervisor}: ${state}, ${disks.length} disks`);
  if (group.hooks !== undefined) lines.push(`  hooks       ${hooksText(group.hooks)}`);
  for (const view of group.views)
    lines.push(
      `  view        ${view.id} at ${view.checkpoint}, ${view.purpose}, scratch ${formatBytes(view.scratchBytes)}`,
    );
  for (const alert of group.alerts)
    lines.push(
      `  ${yellow(`alert       ${alert.code}: ${oneLine(alert.message)}`)}\n              ${oneLine(alert.hint)}`,
    );
  if (group.actions.length > 0) lines.push(`  actions     ${group.actions.join(', ')}`);
  return `${lines.join('\n')}\n`;
}

function hooksText({ vms, running, nextMs, missedCount, missed }: NonNullable<GroupStatus['hooks']>): string {
  const all = [...vms].sort((a, b) => a.tier - b.tier).map(({ vm, kinds }) => `${oneLine(vm)} ${kinds.join('+')}`);
  const next = running ? 'being made' : nextMs === null ? 'no schedule' : `next ${formatTime(nextMs)}`;
  const last = missed.at(-1);
  const gone = last === undefined ? '' : `, ${missedCount} missed, last ${formatTime(last.dueMs)} ${last.reason}`;
  return `${all.join(', then ')}; ${next}${gone}`;
}

function groupTable(groups: readonly GroupStatus[]): string {
  const rows = groups.map((group) => [
    group.name,
    group.role,
    group.state,
    formatSeconds(group.rpoSeconds),
    String(group.epoch?.epoch ?? '-'),
    String(group.disks.length),
    group.newestCheckpoint === null ? '-' : formatTime(group.newestCheckpoint.sourceTimeMs),
  ]);
  return formatTable(['GROUP', 'ROLE', 'STATE', 'RPO', 'EPOCH', 'DISKS', 'NEWEST CHECKPOINT'], rows);
}
