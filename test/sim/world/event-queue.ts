/** A binary heap of events by time, then by order of scheduling. */
export interface SimEvent {
  readonly timeMs: number;
  readonly serial: number;
  /** Undefined once cancelled. */
  run: (() => void) | undefined;
}

export class EventQueue {
  readonly #heap: SimEvent[] = [];

  get count(): number {
    return this.#heap.length;
  }

  peek(): SimEvent | undefined {
    return this.#heap[0];
  }

  push(event: SimEvent): void {
    const heap = this.#heap;
    let index = heap.length;
    heap.push(event);
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!isBefore(event, heap[parent]!)) break;
      heap[index] = heap[parent]!;
      index = parent;
    }
    heap[index] = event;
  }

  pop(): SimEvent | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (heap.length === 0 || last === undefined) return first;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child += 1;
      if (!isBefore(heap[child]!, last)) break;
      heap[index] = heap[child]!;
      index = child;
    }
    heap[index] = last;
    return first;
  }
}

function isBefore(left: SimEvent, right: SimEvent): boolean {
  return left.timeMs < right.timeMs || (left.timeMs === right.timeMs && left.serial < right.serial);
}
