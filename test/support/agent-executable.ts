/**
 * What is started as the agent: dist/tidemark, or with TIDEMARK_AGENT=bundle the sources bundled once and run by this
 * Node (with TIDEMARK_AGENT_NODE_ARGS, e.g. `--cpu-prof --cpu-prof-dir=/tmp/prof`).
 */
import { existsSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { repositoryRoot } from './paths.js';
import type { Processes } from './processes.js';

export interface AgentExecutable {
  readonly command: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/** `bundleNodeArgs`: a bundle with these arguments of Node, whatever the environment says. */
export async function agentExecutable(
  processes: Processes,
  bundleNodeArgs?: readonly string[],
): Promise<AgentExecutable> {
  const root = repositoryRoot();
  if (bundleNodeArgs === undefined && process.env['TIDEMARK_AGENT'] !== 'bundle') {
    const command = join(root, 'dist', 'tidemark');
    if (!existsSync(command)) throw new Error(`${command} is not there; run \`make agent\` first`);
    return { command, args: [], env: {} };
  }
  // Inside the checkout, so that packages resolve from its node_modules.
  const file = join(root, 'dist', 'run', `agent-${process.pid}`, 'main.mjs');
  process.once('exit', () => rmSync(dirname(file), { recursive: true, force: true }));
  await processes.run(process.execPath, [join(root, 'test', 'support', 'bundle-agent.ts'), file]);
  const nodeArgs = bundleNodeArgs ?? process.env['TIDEMARK_AGENT_NODE_ARGS']?.split(' ') ?? [];
  return {
    command: process.execPath,
    args: ['--enable-source-maps', '--disable-warning=ExperimentalWarning', ...nodeArgs, file],
    env: { TIDEMARK_WORKER_DIR: join(root, 'dist', 'workers') },
  };
}
