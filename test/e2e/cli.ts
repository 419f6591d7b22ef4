/** The real `tidemark` command line against an agent of a laboratory. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import type { AgentHandle } from '../support/agent-handle.js';
import { operatorName } from '../support/agent-handle.js';
import type { Laboratory } from '../support/laboratory.js';
import { repositoryRoot } from '../support/paths.js';

export interface CliResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs to the end, whatever its exit code. */
export function tidemark(lab: Laboratory, agent: AgentHandle, ...args: string[]): Promise<CliResult> {
  const pki = (file: string): string => join(lab.pkiDirectory, file);
  const env = {
    ...process.env,
    TIDEMARK_API: agent.addresses.api,
    TIDEMARK_CERTIFICATE: pki(`${operatorName}.crt`),
    TIDEMARK_KEY: pki(`${operatorName}.key`),
    TIDEMARK_AUTHORITY: pki('ca.crt'),
  };
  return new Promise((resolve) => {
    const options = { env, timeout: 60_000, maxBuffer: 64 * 1024 * 1024 };
    execFile(join(repositoryRoot(), 'dist', 'tidemark'), args, options, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : typeof error.code === 'number' ? error.code : -1, stdout, stderr }),
    );
  });
}

/** As {@link tidemark}; fails unless it ends with 0, and gives what `--json` printed. */
export async function tidemarkJson<T = Record<string, unknown>>(
  lab: Laboratory,
  agent: AgentHandle,
  ...args: string[]
): Promise<T> {
  const { code, stdout, stderr } = await tidemark(lab, agent, ...args, '--json');
  if (code !== 0) throw new Error(`tidemark ${args.join(' ')} ended with ${code}: ${stderr || stdout}`);
  return JSON.parse(stdout) as T;
}
