/**
 * Hostile requests with a valid certificate: whatever is sent, the agent answers with an error of its table or drops the
 * connection, never calls the service with what its types forbid, and goes on. Seed: TIDEMARK_FUZZ_SEED.
 */
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { request } from 'node:https';
import { connect } from 'node:tls';
import fc from 'fast-check';
import { errorTable } from '../../agent/src/core/errors.js';
import { routes } from '../../agent/src/control/routes.js';
import type { KeyPair } from '../../agent/src/pki/authority.js';
import { ApiFixture } from '../support/api-fixture.js';

const seed = Number(process.env['TIDEMARK_FUZZ_SEED'] ?? Date.now() & 0x7fffffff);
const runCount = 2000;
/** Even a slow machine ends in time. */
const boundMs = 20_000;

let fixture: ApiFixture;
let own: KeyPair;
beforeAll(async () => {
  fixture = await ApiFixture.start({ requestMs: 2000 });
  own = await fixture.issue('alice');
});
afterAll(() => fixture.stop());

const word = fc.oneof(
  fc.string(),
  fc.constantFrom(
    'shop',
    'data',
    'latest',
    '__proto__',
    'constructor',
    '..',
    '%00',
    'x'.repeat(300),
    '-1',
    '1e309',
    'null',
    '💥',
  ),
);
const anyBody = fc.oneof(
  { weight: 3, arbitrary: fc.json() },
  { weight: 1, arbitrary: fc.string() },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      '{"__proto__":{"a":1}}',
      '['.repeat(5000),
      '{"spec":{"disks":[null]}}',
      '{"kind":"failover"}',
      '',
    ),
  },
);
const hostile = fc.record({
  route: fc.constantFrom(...routes.map((route) => route.id)),
  words: fc.array(word, { minLength: 3, maxLength: 3 }),
  query: fc.dictionary(fc.oneof(word, fc.constantFrom('limit', 'before', 'at', 'after', 'kind')), word, { maxKeys: 4 }),
  body: anyBody,
  type: fc.constantFrom('application/json', 'application/json', 'text/plain', 'application/json; charset=utf-99'),
});

interface Answer {
  status: number;
  text: string;
}

function send(method: string, path: string, type: string, body: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const [host, port] = fixture.server.address.split(':');
    const bytes = Buffer.from(body);
    const headers = method === 'GET' ? {} : { 'content-type': type, 'content-length': bytes.length };
    const outgoing = request(
      { host, port, method, path, headers, cert: own.certificate, key: own.key, ca: fixture.authority.certificate },
      (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (part: string) => (text += part));
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
      },
    );
    outgoing.on('error', reject);
    outgoing.end(method === 'GET' ? undefined : bytes);
  });
}

test(`hostile requests, seed ${seed}`, async () => {
  const counts = new Map<number, number>();
  const property = fc.asyncProperty(hostile, async ({ route: id, words, query, body, type }) => {
    const route = routes.find((each) => each.id === id)!;
    let index = 0;
    const path = route.path.replaceAll(/\{\w+\}/g, () => encodeURIComponent(words[index++]!) || 'x');
    // A wait on purpose would only cost time.
    const search = new URLSearchParams(Object.entries(query).filter(([name]) => name !== 'waitSeconds'));
    const { status, text } = await send(route.method, `${path}?${search}`, type, body);
    counts.set(status, (counts.get(status) ?? 0) + 1);
    if (status < 300) return;
    const error = JSON.parse(text) as { code: string; message: string; hint: string };
    expect(Object.keys(errorTable)).toContain(error.code);
    expect(error.code).not.toBe('internal');
    expect(status).toBeLessThan(500);
  });
  await fc.assert(property, {
    seed,
    numRuns: runCount,
    interruptAfterTimeLimit: boundMs,
    markInterruptAsFailure: false,
  });
  expect(counts.get(400)).toBeGreaterThan(20);
  expect((await send('GET', '/v1/agent', '', '')).status).toBe(200);
  expect(({} as Record<string, unknown>)['a']).toBeUndefined();
});

test(`raw bytes inside TLS, seed ${seed}`, async () => {
  const [host, port] = fixture.server.address.split(':');
  const property = fc.asyncProperty(
    fc.oneof(
      fc.uint8Array({ maxLength: 400 }),
      fc.string().map((text) => Buffer.from(`GET /${text} HTTP/1.1\r\nhost: x\r\n\r\n`)),
      fc.constant(Buffer.from(`GET / HTTP/1.1\r\nx: ${'y'.repeat(100_000)}\r\n\r\n`)),
    ),
    async (bytes) => {
      const socket = connect({
        host: host!,
        port: Number(port),
        cert: own.certificate,
        key: own.key,
        ca: fixture.authority.certificate,
      });
      socket.on('error', () => {});
      socket.resume();
      const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
      socket.end(bytes);
      await closed;
    },
  );
  await fc.assert(property, { seed, numRuns: 60, interruptAfterTimeLimit: boundMs, markInterruptAsFailure: false });
  expect((await send('GET', '/v1/agent', '', '')).status).toBe(200);
});
