/**
 * Tells systemd how the agent is. Node has no datagram sockets of the unix domain, so the `systemd-notify` program of
 * the host sends (it is part of every systemd); the unit therefore says NotifyAccess=all. Without NOTIFY_SOCKET: nothing.
 */
import { execFile } from 'node:child_process';

export interface ServiceManager {
  /** Resolves when it was sent; a failure to send is told to `onFailure` and nothing else. */
  notify(...states: string[]): Promise<void>;
  /** Sends WATCHDOG=1 at half the period that the manager wants, as long as `isAlive`; returns how to stop. */
  startWatchdog(isAlive: () => boolean): () => void;
}

const sendMs = 5_000;

export function serviceManager(
  env: Readonly<Record<string, string | undefined>>,
  onFailure: (error: Error) => void,
): ServiceManager {
  const present = env['NOTIFY_SOCKET'] !== undefined;
  const notify = (...states: string[]): Promise<void> => {
    if (!present) return Promise.resolve();
    return new Promise((resolve) => {
      execFile(
        'systemd-notify',
        [`--pid=${process.pid}`, ...states],
        { timeout: sendMs, env: { ...env } as NodeJS.ProcessEnv },
        (error) => {
          if (error !== null) onFailure(error);
          resolve();
        },
      );
    });
  };
  return {
    notify,
    startWatchdog: (isAlive) => {
      const periodMs = Number(env['WATCHDOG_USEC'] ?? 0) / 1000;
      if (!present || !(periodMs > 0)) return () => {};
      const timer = setInterval(() => {
        if (isAlive()) void notify('WATCHDOG=1');
      }, periodMs / 2);
      return () => clearInterval(timer);
    },
  };
}
