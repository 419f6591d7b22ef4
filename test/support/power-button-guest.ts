/**
 * A counting guest (counting-guest.ts, of one disk) that heeds the power button: it turns itself off after its next write.
 * q35: PM1a events at 0x600, control at 0x604.
 *
 *   button: out 0x602, 0x100 (enable); in ax, 0x600; test ah, 1; jz again; out 0x604, 0x2000 (S5); hlt
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { writeCountingDisk } from './counting-guest.js';

const button = { offset: 0x60, code: 'ba0206b80001efba0006edf6c401749fba0406b80020eff4ebfd' };
/** The jump at the end of the loop goes to `button` instead of `again`. */
const loopEnd = { offset: 0x3e, code: 'eb20' };

export function writePowerButtonDisk(path: string, sizeBytes: number): void {
  writeCountingDisk(path, sizeBytes);
  const file = openSync(path, 'r+');
  for (const { offset, code } of [button, loopEnd]) {
    const bytes = Buffer.from(code, 'hex');
    writeSync(file, bytes, 0, bytes.length, offset);
  }
  closeSync(file);
}
