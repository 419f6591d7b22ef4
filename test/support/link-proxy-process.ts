/**
 * A network link of a given capacity: a TCP proxy with a byte rate for each direction, started as its own process
 * (Node runs this file as it is, without the bundler). First line on stdout: the port. Each line on stdin is JSON
 * `{ "bytesPerSecond": number | null, "cut": boolean }`; a cut link drops what is open and refuses what is new.
 * Arguments: HOST:PORT of the other end.
 */
import { connect, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

const [host, port] = process.argv[2]!.split(':');
const open = new Set<Socket>();
let bytesPerSecond: number | null = null;
let isCut = false;

/** One direction of the link, shared by all connections: bytes leave one after the other at the rate. */
class Direction {
  #freeMs = 0;
  bytes = 0;

  pump(from: Socket, to: Socket): void {
    from.on('data', (chunk: Buffer) => {
      this.bytes += chunk.length;
      const now = performance.now();
      const leavesMs =
        bytesPerSecond === null ? now : Math.max(now, this.#freeMs) + (chunk.length / bytesPerSecond) * 1000;
      this.#freeMs = leavesMs;
      const flowing = leavesMs - now < 1 ? to.write(chunk) : (this.#later(leavesMs - now, from, to, chunk), true);
      if (flowing) return;
      from.pause();
      to.once('drain', () => from.resume());
    });
    from.on('end', () => to.end());
  }

  #later(delayMs: number, from: Socket, to: Socket, chunk: Buffer): void {
    from.pause();
    setTimeout(() => {
      if (to.destroyed) return;
      if (to.write(chunk)) from.resume();
      else to.once('drain', () => from.resume());
    }, delayMs);
  }
}

const up = new Direction();
const down = new Direction();

const server = createServer({ noDelay: true }, (client) => {
  if (isCut) {
    client.resetAndDestroy();
    return;
  }
  const peer = connect({ host: host!, port: Number(port), noDelay: true });
  for (const [socket, other] of [
    [client, peer],
    [peer, client],
  ] as const) {
    open.add(socket);
    socket.on('error', () => other.destroy());
    socket.on('close', () => {
      open.delete(socket);
      other.destroy();
    });
  }
  up.pump(client, peer);
  down.pump(peer, client);
});

server.listen(0, '127.0.0.1', () => {
  const address = server.address();
  if (address !== null && typeof address === 'object') console.log(address.port);
});

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const next = JSON.parse(line) as { bytesPerSecond: number | null; cut: boolean };
    ({ bytesPerSecond, cut: isCut } = next);
    if (isCut) for (const socket of open) socket.resetAndDestroy();
  })
  .on('close', () => process.exit(0));
