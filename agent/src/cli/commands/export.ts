/** tidemark export: a checkpoint's disks as raw or qcow2 files. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { TidemarkError } from '../../core/errors.js';
import { convertDisk } from '../../service/convert.js';
import { parseSelector } from '../../service/selector.js';
import type { ViewStatus } from '../../service/view-schemas.js';
import {
  operationOptions,
  runOperation,
  withSession,
  type CliContext,
  type OperationOptions,
  type Session,
} from '../command.js';
import { formatBytes, formatTime } from '../format.js';
import { ProgressLine } from '../progress.js';
import { atHelp } from './views.js';

interface ExportOptions extends OperationOptions {
  at: string;
  format: string;
  disk?: string[];
  onAgent?: boolean;
}

export function addExportCommand(program: Command, context: CliContext): void {
  operationOptions(
    program
      .command('export')
      .argument('<group>')
      .argument('<directory>', 'one file for each disk: DISK.raw or DISK.qcow2')
      .description('write the disks of a checkpoint to files')
      .option('--at <checkpoint>', atHelp, 'latest')
      .option('--format <format>', 'raw or qcow2', 'raw')
      .option('--disk <name...>', 'only these disks')
      .option('--on-agent', 'the agent writes the files itself, as an operation that survives this command'),
  ).action((group: string, directory: string, options: ExportOptions, command: Command) =>
    withSession(context, command, (session) => exportDisks(session, group, resolve(directory), options)),
  );
}

async function exportDisks(session: Session, group: string, directory: string, options: ExportOptions): Promise<void> {
  const at = parseSelector(options.at, session.terminal.nowMs());
  const { format } = options;
  if (format !== 'raw' && format !== 'qcow2')
    throw new TidemarkError('request-invalid', `--format is raw or qcow2, not ${JSON.stringify(format)}`, {
      path: 'format',
    });
  if (options.onAgent === true) {
    const disks = options.disk === undefined ? {} : { disks: options.disk };
    return runOperation(session, options, { kind: 'export', group, arguments: { at, format, directory, ...disks } });
  }
  const view = await session.client.openView(group, {
    id: options.id ?? `export-${randomBytes(4).toString('hex')}`,
    at,
    purpose: 'browse',
  });
  try {
    const files = await copyDisks(session, view, directory, format, options.disk);
    session.print(
      { checkpoint: view.checkpoint, sourceTimeMs: view.sourceTimeMs, files },
      () =>
        `checkpoint ${view.checkpoint} ${formatTime(view.sourceTimeMs)}\n${files.map((file) => `  ${file.path}  ${formatBytes(file.sizeBytes)}\n`).join('')}`,
    );
  } finally {
    await session.client.closeView(group, view.id, { force: true });
  }
}

interface ExportedFile {
  readonly disk: string;
  readonly path: string;
  readonly sizeBytes: number;
}

async function copyDisks(
  session: Session,
  view: ViewStatus,
  directory: string,
  format: 'raw' | 'qcow2',
  only: string[] | undefined,
): Promise<ExportedFile[]> {
  const unknown = only?.find((name) => !view.disks.some((disk) => disk.name === name));
  if (unknown !== undefined)
    throw new TidemarkError('disk-unknown', `no disk ${unknown} in ${view.group}`, { path: 'disk' });
  mkdirSync(directory, { recursive: true });
  const files: ExportedFile[] = [];
  for (const disk of view.disks.filter((other) => only?.includes(other.name) !== false)) {
    const socket = new URL(disk.uri).searchParams.get('socket');
    if (socket !== null && statSync(socket, { throwIfNoEntry: false }) === undefined)
      throw new TidemarkError(
        'request-invalid',
        `${socket} is not on this machine; run export on the agent host, or with --on-agent`,
        { path: 'directory' },
      );
    const path = join(directory, `${disk.name}.${format}`);
    const line = new ProgressLine(session.terminal);
    const startedMs = session.terminal.nowMs();
    const onProgress = (share: number): void => {
      const doneBytes = share * disk.sizeBytes;
      const bytesPerSecond = doneBytes / Math.max(0.001, (session.terminal.nowMs() - startedMs) / 1000);
      line.update(`export ${disk.name}`, {
        doneBytes,
        totalBytes: disk.sizeBytes,
        bytesPerSecond,
        secondsLeft: share > 0 ? (disk.sizeBytes - doneBytes) / bytesPerSecond : null,
      });
    };
    try {
      await convertDisk({ uri: disk.uri, file: path, format, onProgress, signal: session.terminal.signal });
    } finally {
      line.end();
    }
    files.push({ disk: disk.name, path, sizeBytes: disk.sizeBytes });
  }
  return files;
}
