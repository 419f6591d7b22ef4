/**
 * The guard's duplicates of the agent's sockets. A duplicate is never read while the agent may still run: one stolen byte
 * would shift everything that the agent takes for writes. `shutDown` is seen by the client as the end of the stream.
 *
 * A client may be blocked in sending, with nobody there who waits for an answer and would see the end (QEMU with one long
 * write under way). The death of the agent helps it; an agent that cannot die (its thread hangs in the kernel) does
 * not. So `drain` reads on in its stead: only after SIGKILL was sent, when no instruction of the agent runs any more.
 */
import { Socket } from 'node:net';

interface Duplicate {
  readonly group: string;
  readonly exportName: string;
  readonly socket: Socket;
}

export class Duplicates {
  readonly #held = new Map<number, Duplicate>();

  get count(): number {
    return this.#held.size;
  }

  /** Names of the groups that the connections belong to, sorted. */
  get groups(): string[] {
    return [...new Set([...this.#held.values()].map(({ group }) => group))].sort();
  }

  /** `handle`: what came over the channel; it is not read. */
  hold(number: number, group: string, exportName: string, handle: unknown): void {
    const options = { handle, manualStart: true, allowHalfOpen: true };
    const socket = new Socket(options as unknown as ConstructorParameters<typeof Socket>[0]);
    // The client may be gone already: then there is nothing to let go.
    socket.on('error', () => undefined);
    socket.on('close', () => this.#held.delete(number));
    this.#held.set(number, { group, exportName, socket });
  }

  drop(number: number): void {
    this.#held.get(number)?.socket.destroy();
    this.#held.delete(number);
  }

  /** shutdown(2) of the sending side of all; resolves when the kernel has done it. */
  async shutDown(): Promise<void> {
    await Promise.all(
      [...this.#held.values()].map(
        ({ socket }) =>
          new Promise<void>((resolve) => {
            if (socket.destroyed) resolve();
            else socket.once('close', () => resolve()).end(() => resolve());
          }),
      ),
    );
  }

  /** Reads and forgets what clients send, until each has closed. */
  drain(): void {
    for (const { socket } of this.#held.values()) {
      socket.on('end', () => socket.destroy());
      socket.resume();
    }
  }

  close(): void {
    for (const number of [...this.#held.keys()]) this.drop(number);
  }
}
