/** Runs the host's programs for disks and mounts: without a shell, with a deadline, their own words in the error. */
import { execFile } from 'node:child_process';
import { TidemarkError } from '../core/errors.js';

const timeoutMsDefault = 30_000;
const outputBytesMax = 1024 * 1024;

export interface ToolResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** What it did, whatever its exit code. Throws `storage-io` when it cannot be run, `timed-out`. */
export function tryTool(file: string, args: readonly string[], timeoutMs = timeoutMsDefault): Promise<ToolResult> {
  const options = { timeout: timeoutMs, killSignal: 'SIGKILL', maxBuffer: outputBytesMax } as const;
  return new Promise((resolve, reject) => {
    execFile(file, args, options, (error, stdout, stderr) => {
      if (error === null || typeof error.code === 'number')
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr: stderr.trim() });
      else if (error.killed === true)
        reject(new TidemarkError('timed-out', `${file} took over ${timeoutMs} ms.`, { cause: error }));
      else reject(new TidemarkError('storage-io', `${file} cannot be run: ${error.message}`, { cause: error }));
    });
  });
}

/** What it printed; throws `storage-io` with its words when it ends with something else than 0. */
export async function runTool(file: string, args: readonly string[], timeoutMs?: number): Promise<string> {
  const { code, stdout, stderr } = await tryTool(file, args, timeoutMs);
  if (code === 0) return stdout.trim();
  throw new TidemarkError('storage-io', `${file} ${args.join(' ')}: ${stderr || `exit code ${code}`}`);
}
