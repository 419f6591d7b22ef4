/**
 * Memory that O_DIRECT takes: aligned to pages, which that of a WebAssembly memory is, and no other of Node's. A few lanes
 * of two buffers each for the whole process; who finds none waits for its turn.
 */

/** What position, length and memory of direct I/O are multiples of: the largest that common devices ask for. */
export const directAlignment = 4096;
export const stagingBytes = 1024 * 1024;
const laneCount = 2;

export interface Lane {
  /** While one is written the other is filled. */
  readonly buffers: readonly [Uint8Array, Uint8Array];
}

const free: Lane[] = [];
const waiting: ((lane: Lane) => void)[] = [];
let madeCount = 0;

export function takeLane(): Promise<Lane> {
  const lane = free.pop() ?? (madeCount < laneCount ? makeLane() : undefined);
  return lane === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(lane);
}

/** Nothing is written from its buffers any more. */
export function giveLane(lane: Lane): void {
  const next = waiting.shift();
  if (next === undefined) free.push(lane);
  else next(lane);
}

/** Node's types know only the name. */
interface WithMemory {
  readonly WebAssembly: { readonly Memory: new (size: { initial: number }) => { readonly buffer: ArrayBuffer } };
}

function makeLane(): Lane {
  madeCount++;
  const { buffer } = new (globalThis as unknown as WithMemory).WebAssembly.Memory({
    initial: (2 * stagingBytes) / 65_536,
  });
  return { buffers: [new Uint8Array(buffer, 0, stagingBytes), new Uint8Array(buffer, stagingBytes, stagingBytes)] };
}
