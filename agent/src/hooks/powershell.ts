/** PowerShell in a Windows guest, by the guest agent. */
import { TidemarkError } from '../core/errors.js';
import type { GuestSession } from './guest-session.js';

/** What the script printed. It may have no double quotation marks: they do not survive the command line. */
export async function powershell(guest: GuestSession, script: string, timeoutMs: number): Promise<string> {
  const words = ['powershell.exe', '-NoProfile', '-NonInteractive', '-ExecutionPolicy', 'Bypass', '-Command', script];
  const { exitCode, stdout, stderr } = await guest.run(words, { timeoutMs });
  if (exitCode === 0) return stdout.replaceAll('\r', '');
  const said = (stderr.trim() || stdout.trim()).slice(-500);
  throw new TidemarkError('hook-failed', `PowerShell in the guest ended with ${exitCode}: ${said}`);
}
