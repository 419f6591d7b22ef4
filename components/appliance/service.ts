/**
 * How the agent of an appliance is kept running: a systemd unit where systemd runs and the host was given as root, else a
 * script of ours that starts it again when it ends. Its own words on the host tell which one it is.
 */
import type { Host } from './host.js';
import { paths, type ServicePlace } from './layout.js';
import { sh, writeFile } from './scripts.js';
import { supervisorScript } from './supervisor.js';
import { unitText } from './unit.js';

export type ServiceKind = 'systemd' | 'process';

/** The agent drains for 20 s; then it is killed. */
const stopMs = 90_000;

/** What the host has. */
export async function serviceKind(host: Host): Promise<ServiceKind> {
  const script = '[ -d /run/systemd/system ] && [ "$(id -u)" = 0 ] && command -v systemctl >/dev/null';
  return (await host.run(script, [])).code === 0 ? 'systemd' : 'process';
}

const unitOf = (agent: string): string => `tidemark-${agent}.service`;
const unitPath = (agent: string): string => `/etc/systemd/system/${unitOf(agent)}`;

/** Starts it anew, with what `current` is now. */
export async function restartService(host: Host, kind: ServiceKind, place: ServicePlace): Promise<void> {
  const { directory, agent } = place;
  if (kind === 'systemd') {
    await writeFile(host, unitPath(agent), unitText(place), '0644');
    const script = 'systemctl daemon-reload && systemctl enable --quiet "$1" && systemctl restart "$1"';
    await sh(host, 'starting the service', script, [unitOf(agent)], { timeoutMs: stopMs });
    return;
  }
  await stopProcess(host, directory);
  await writeFile(host, paths(directory).service, supervisorScript, '0700');
  // A session of its own: neither the end of the login nor a signal to Pulumi's group ends it.
  const script = 'cd / && setsid sh "$1/service" "$1" "$2" </dev/null >/dev/null 2>&1 &';
  await sh(host, 'starting the service', script, [directory, place.mountPoint]);
}

/** One that does not run is no error. */
export async function removeService(host: Host, kind: ServiceKind, directory: string, agent: string): Promise<void> {
  if (kind === 'process') return stopProcess(host, directory);
  const script = `systemctl disable --now --quiet "$1" 2>/dev/null; rm -f "$2"; systemctl daemon-reload`;
  await sh(host, 'stopping the service', script, [unitOf(agent), unitPath(agent)], { timeoutMs: stopMs });
}

export async function isRunning(host: Host, kind: ServiceKind, directory: string, agent: string): Promise<boolean> {
  const script = kind === 'systemd' ? 'systemctl is-active --quiet "$2"' : `${findSupervisor}; [ -n "$pid" ]`;
  return (await host.run(script, [directory, unitOf(agent)])).code === 0;
}

/** How often the agent was started since the service was; it ends by itself when that grows. */
export async function startCount(host: Host, kind: ServiceKind, directory: string, agent: string): Promise<number> {
  const script = kind === 'systemd' ? 'systemctl show -P NRestarts "$2"' : 'cat "$1/service.starts"';
  return Number((await host.run(script, [directory, unitOf(agent)])).stdout.trim()) || 0;
}

/** Its last lines, for an error. */
export async function logTail(host: Host, kind: ServiceKind, directory: string, agent: string): Promise<string> {
  const script = kind === 'systemd' ? 'journalctl -u "$2" -n 5 -o cat' : 'tail -n 5 "$1"';
  return (await host.run(script, [paths(directory).log, unitOf(agent)])).stdout.trim();
}

/** By its command line too: a process id is given again, and a restart of the host leaves the file. */
const findSupervisor = `pid=$(cat "$1/service.pid" 2>/dev/null)
  [ -n "$pid" ] && tr "\\0" " " <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "sh $1/service $1 " || pid=`;

async function stopProcess(host: Host, directory: string): Promise<void> {
  const script = `${findSupervisor}
    [ -n "$pid" ] || exit 0
    kill -TERM "$pid" 2>/dev/null
    i=0
    while [ -e "/proc/$pid" ] && [ $i -lt 400 ]; do sleep 0.1; i=$((i + 1)); done
    [ -e "/proc/$pid" ] || exit 0
    agent=$(cat "$1/agent.pid" 2>/dev/null)
    kill -KILL "$pid" $agent 2>/dev/null; rm -f "$1/service.pid"`;
  await sh(host, 'stopping the service', script, [directory], { timeoutMs: stopMs });
}
