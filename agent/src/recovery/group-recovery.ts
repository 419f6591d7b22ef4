/** The recovery of one group: its live VMs and its drills. */
import type { TargetGroup } from '../target/group.js';
import type { GroupMachines } from '../target/machines.js';
import { Drills } from './drills.js';
import { LiveMachines } from './live.js';
import { Room, type RecoveryEnvironment } from './room.js';

export function recoverGroup(group: TargetGroup, environment: RecoveryEnvironment): GroupMachines {
  const room = new Room(group, environment);
  return new LiveMachines(room, new Drills(room));
}
