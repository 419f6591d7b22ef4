/** The lines that `virsh event` and `virsh qemu-monitor-event` print, as events. */
import { z } from 'zod';
import type { VmEvent } from './hypervisor.js';
import type { MonitorEvent } from './monitor.js';

const eventLine = /^\S+ \S+: event '([a-z-]+)' for domain '(.*?)'(?:: (.*))?$/;
const monitorLine = /^\S+ \S+: event ([A-Z_]+) for domain '(.*?)': (.*)$/;
const dataSchema = z.record(z.string(), z.unknown());

const lifecycle: readonly (readonly [RegExp, VmEvent['kind']])[] = [
  [/^Started/, 'started'],
  [/^Stopped Migrated/, 'migrated'],
  [/^(Stopped Crashed|Stopped Failed|Crashed)/, 'crashed'],
  [/^Stopped/, 'stopped'],
  [/^Suspended/, 'paused'],
  [/^Resumed/, 'resumed'],
];
const others: Readonly<Record<string, VmEvent['kind']>> = {
  reboot: 'rebooted',
  'device-added': 'disk-added',
  'device-removed': 'disk-removed',
};

/** Undefined: a line about nothing of interest. */
export function parseVmEvent(line: string): VmEvent | undefined {
  const [, event = '', vm = '', detail = ''] = eventLine.exec(line) ?? [];
  const kind = event === 'lifecycle' ? lifecycle.find(([pattern]) => pattern.test(detail))?.[1] : others[event];
  return kind === undefined ? undefined : { vm, kind };
}

export function parseMonitorEvent(line: string): (MonitorEvent & { readonly vm: string }) | undefined {
  const [, name, vm = '', text = ''] = monitorLine.exec(line) ?? [];
  if (name === undefined) return undefined;
  try {
    return { name, vm, data: text === '<null>' ? {} : dataSchema.parse(JSON.parse(text)) };
  } catch {
    return { name, vm, data: {} };
  }
}
