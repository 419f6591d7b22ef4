/** A relay on loopback that counts what goes both ways. */
import { connect, createServer, type AddressInfo } from 'node:net';

export interface CountingRelay extends AsyncDisposable {
  readonly address: string;
  readonly bytes: () => number;
}

/** To `address`, HOST:PORT. */
export async function startCountingRelay(address: string): Promise<CountingRelay> {
  let bytes = 0;
  const [host, port] = address.split(':') as [string, string];
  const sockets = new Set<{ destroy(): void }>();
  const server = createServer((from) => {
    const to = connect(Number(port), host);
    for (const [a, b] of [
      [from, to],
      [to, from],
    ] as const) {
      sockets.add(a);
      a.on('data', (chunk: Buffer) => (bytes += chunk.length));
      a.on('error', () => b.destroy());
      a.pipe(b);
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    bytes: () => bytes,
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
