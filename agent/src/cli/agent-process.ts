/**
 * The agent as a process: configuration, log, signals, service manager. SIGTERM and SIGINT drain and end with exit code
 * 0, also when the drain takes too long (then what was not durable is resent after the next start). SIGHUP reloads. An
 * unhandled rejection or exception is logged and ends the process: a restart recovers, going on might not.
 */
import { loadConfig } from '../config/load.js';
import { planReload, type ReloadPlan } from '../config/reload.js';
import type { AgentConfig } from '../config/schema.js';
import { TidemarkError } from '../core/errors.js';
import { LogWriter } from '../control/log-writer.js';
import { createLogger, type ControllableLogger, type Logger } from '../control/logger.js';
import { serviceManager } from './systemd.js';

/** What the last lines of the log may take. */
const flushMs = 1000;

export type ReloadHandler = (config: AgentConfig, plan: ReloadPlan) => Promise<void>;

export interface RunOptions {
  /** Of this software. */
  readonly version: string;
  /** Aborts when the agent shall drain and end. */
  readonly signal: AbortSignal;
  /** Called once, when the listeners are up and every group has been recovered. */
  onReady(): void;
  readonly log: Logger;
  /** Sets who applies a reload; a plan with refused properties never gets there. */
  onReload(handler: ReloadHandler): void;
}

export type RunAgent = (config: AgentConfig, options: RunOptions) => Promise<void>;

/** Resolves when the agent has ended in order. */
export async function runAgentProcess(configFile: string, version: string, run: RunAgent): Promise<void> {
  let config = await loadConfig(configFile);
  const fields = { site: config.site, agent: config.agent, version };
  const writer = new LogWriter(2);
  const pretty = process.stderr.isTTY === true;
  const log = createLogger({ level: config.log.level, fields, pretty, destination: writer });
  const manager = serviceManager(process.env, (error) =>
    log.warn({ event: 'notify-failed', err: error }, 'the service manager was not told'),
  );
  const stop = new AbortController();
  const crash = (error: unknown): never => die(log, writer, error);
  process.on('unhandledRejection', crash);
  process.on('uncaughtException', crash);
  // Node's own way writes to stderr from this thread, and waits.
  process.removeAllListeners('warning');
  process.on('warning', (warning) => log.warn({ event: 'runtime-warning', err: warning }, warning.message));

  const onStop = (signal: string): void => {
    if (stop.signal.aborted) return;
    log.info({ event: 'agent-stopping', signal, drainSeconds: config.drainSeconds }, 'draining');
    void manager.notify('STOPPING=1');
    setTimeout(
      () => {
        log.warn({ event: 'drain-timed-out' }, 'the drain took too long; ending all the same');
        void writer.flush(flushMs).finally(() => process.exit(0));
      },
      config.drainSeconds * 1000 + 1000,
    ).unref();
    stop.abort(new TidemarkError('shutting-down', 'the agent is stopping'));
  };
  process.on('SIGTERM', () => onStop('SIGTERM'));
  process.on('SIGINT', () => onStop('SIGINT'));

  let apply: ReloadHandler | undefined;
  let reloading: Promise<void> = Promise.resolve();
  const reload = async (): Promise<void> => {
    await manager.notify('RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
    try {
      config = await reloadConfig(configFile, config, apply, log);
    } catch (error) {
      log.error({ event: 'reload-failed', err: error }, 'the old configuration stays');
    } finally {
      await manager.notify('READY=1');
    }
  };
  process.on('SIGHUP', () => void (reloading = reloading.then(reload)));

  const stopWatchdog = manager.startWatchdog(() => !stop.signal.aborted);
  log.info({ event: 'agent-starting', configFile }, 'starting');
  const onReady = (): void => {
    log.info({ event: 'agent-ready' }, 'ready');
    void manager.notify('READY=1', `STATUS=ready as ${config.site}/${config.agent}`);
  };
  try {
    await run(config, { version, signal: stop.signal, onReady, log, onReload: (handler) => (apply = handler) });
  } finally {
    stopWatchdog();
    await writer.flush(flushMs);
  }
  log.info({ event: 'agent-stopped' }, 'stopped');
  await writer.flush(flushMs);
}

/** The configuration that holds from now on: the new one, or the old one when the new is refused or wrong. */
async function reloadConfig(
  file: string,
  before: AgentConfig,
  apply: ReloadHandler | undefined,
  log: ControllableLogger,
): Promise<AgentConfig> {
  const after = await loadConfig(file);
  const plan = planReload(before, after);
  if (plan.refused.length > 0) {
    log.error(
      { event: 'reload-refused', refused: plan.refused },
      plan.refused.map(({ path, reason }) => `${path}: ${reason}`).join('; '),
    );
    return before;
  }
  await apply?.(after, plan);
  log.level = after.log.level;
  log.info(
    { event: 'reloaded', live: plan.live },
    plan.live.length === 0 ? 'nothing has changed' : `changed: ${plan.live.join(', ')}`,
  );
  return after;
}

function die(log: Logger, writer: LogWriter, error: unknown): never {
  log.fatal({ event: 'agent-crashed', err: error }, 'unexpected failure; the agent ends, a restart recovers');
  writer.flushNow();
  process.exit(1);
}
