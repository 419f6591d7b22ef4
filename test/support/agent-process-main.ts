/** The agent's process with nothing inside: what it logs tells the test what it saw. Arguments: config file, behaviour. */
import { runAgentProcess, type RunAgent } from '../../agent/src/cli/agent-process.js';

const [file, behaviour] = process.argv.slice(2);

const run: RunAgent = async (config, { signal, onReady, onReload, log }) => {
  onReload(async (next) =>
    log.info({ event: 'applied', roles: next.access.length, password: 'hunter2', tls: { key: 'hunter2' } }, 'applied'),
  );
  onReady();
  if (behaviour === 'reject') void Promise.reject(new Error('nobody handles this'));
  const keepAlive = setInterval(() => {}, 1000);
  await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
  if (behaviour === 'hang') await new Promise(() => {});
  clearInterval(keepAlive);
  log.info({ event: 'drained', agent: config.agent }, 'drained');
};

await runAgentProcess(file!, 'test', run);
