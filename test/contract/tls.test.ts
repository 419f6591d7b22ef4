/** What only TLS has: certificates, versions, bounds against strangers. */
import { afterEach, describe, expect, test } from '@jest/globals';
import { X509Certificate } from 'node:crypto';
import { connect as connectTcp } from 'node:net';
import { connect as connectTls, type ConnectionOptions } from 'node:tls';
import type { JsonGeneralName } from '@peculiar/x509';
import { TlsDialer } from '../../agent/src/platform/tls-dialer.js';
import { peerName } from '../../agent/src/platform/tls-identity.js';
import { TlsListener, type TlsListenerOptions } from '../../agent/src/platform/tls-listener.js';
import { formatAddress, parseAddress } from '../../agent/src/platform/tls-options.js';
import { createAuthority } from './test-certificates.js';

const authority = await createAuthority();
const [source, target] = await Promise.all([authority({ subject: 'CN=source' }), authority({ subject: 'CN=target' })]);
const never = new AbortController().signal;

const url = (value: string): JsonGeneralName => ({ type: 'url', value });
const dns = (value: string): JsonGeneralName => ({ type: 'dns', value });

describe('the name in a certificate', () => {
  test.each([
    ['CN=site-a', [], 'site-a'],
    ['CN=Some Person', [url('tidemark://site-a')], 'site-a'],
    ['CN=site-b', [dns('x.example'), url('https://example.com'), url('tidemark://site-a')], 'site-a'],
    ['CN=site-b', [dns('x.example')], 'site-b'],
    ['CN=site-a, O=Example', [], 'site-a'],
    ['CN=site-a, CN=site-b', [], undefined],
    ['CN=site-a', [url('tidemark://site-b'), url('tidemark://site-c')], undefined],
    ['CN=site-a', [url('tidemark://')], undefined],
    ['CN=site-a', [url('tidemark://Site A')], undefined],
    ['CN=site-a', [url('tidemark://a, URI:tidemark://b')], undefined],
    ['CN=site-a', [dns('x, URI:tidemark://b')], 'site-a'],
    ['CN=Site', [], undefined],
    ['O=Example', [], undefined],
    [`CN=${'a'.repeat(63)}`, [], 'a'.repeat(63)],
    [`CN=${'a'.repeat(64)}`, [], undefined],
  ] as const)('%s %j', async (subject, alternativeNames, expected) => {
    const { cert } = await authority({ subject, alternativeNames });
    expect(peerName(new X509Certificate(cert))).toBe(expected);
  });
});

describe('listener', () => {
  let listener: TlsListener;
  const refusals: string[] = [];

  afterEach(() => listener.close());

  async function listen(options: Partial<TlsListenerOptions> = {}): Promise<{ host: string; port: number }> {
    refusals.length = 0;
    const onRefused = (address: string, reason: string): void => void refusals.push(`${address} ${reason}`);
    listener = await TlsListener.listen({ address: '127.0.0.1:0', credentials: target, onRefused, ...options });
    listener.onConnection((connection) => connection.onData(() => undefined));
    return parseAddress(listener.address);
  }

  /** Opens with options of its own choice and waits for the end; resolves with the error's code, or `closed`. */
  function attempt(options: ConnectionOptions): Promise<string> {
    return new Promise((resolve) => {
      const socket = connectTls({ rejectUnauthorized: false, ...options });
      socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
      socket.on('close', () => resolve('closed'));
      socket.resume();
    });
  }

  async function until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
  }

  test('refuses TLS 1.2', async () => {
    const address = await listen();
    expect(await attempt({ ...address, ...source, maxVersion: 'TLSv1.2' })).toMatch(/ALERT|SSL/);
  });

  test('refuses a client without a certificate, and says whom', async () => {
    const address = await listen();
    await attempt(address);
    await until(() => refusals.length === 1);
    expect(refusals[0]).toMatch(/^127\.0\.0\.1:\d+ .+/);
  });

  test('refuses a trusted certificate without one name; the dialer says peer-refused', async () => {
    await listen();
    const nameless = await authority({ subject: 'O=Nobody' });
    await expect(new TlsDialer(nameless).dial(listener.address, never)).rejects.toMatchObject({ code: 'peer-refused' });
    await until(() => refusals.length === 1);
    expect(refusals[0]).toContain('does not give one trusted peer name');
  });

  test('the dialer refuses a listener of another authority', async () => {
    const other = await (await createAuthority())({ subject: 'CN=target' });
    await listen({ credentials: other });
    await expect(new TlsDialer(source).dial(listener.address, never)).rejects.toMatchObject({ code: 'peer-refused' });
  });

  test('drops a silent client after the handshake time-out', async () => {
    const address = await listen({ handshakeTimeoutMs: 50 });
    const socket = connectTcp(address);
    await new Promise((resolve) =>
      socket
        .on('close', resolve)
        .on('error', () => undefined)
        .resume(),
    );
    await until(() => refusals.length === 1);
  });

  test('the dialer gives up on a silent listener', async () => {
    const { createServer } = await import('node:net');
    const silent = createServer(() => undefined).listen(0, '127.0.0.1');
    await new Promise((resolve) => silent.once('listening', resolve));
    await listen();
    const { port } = silent.address() as { port: number };
    const dialer = new TlsDialer(source, { handshakeTimeoutMs: 50 });
    await expect(dialer.dial(`127.0.0.1:${port}`, never)).rejects.toMatchObject({ code: 'peer-unreachable' });
    silent.close();
  });

  test('drops connections over the bound, and takes new ones when others end', async () => {
    await listen({ connectionCountMax: 2 });
    const dialer = new TlsDialer(source);
    const first = await dialer.dial(listener.address, never);
    await dialer.dial(listener.address, never);
    await expect(dialer.dial(listener.address, never)).rejects.toMatchObject({ code: 'peer-unreachable' });
    first.close('room');
    const retry = async (): Promise<boolean> =>
      dialer.dial(listener.address, never).then(
        () => true,
        () => false,
      );
    while (!(await retry()));
  });

  test('new credentials count from the next handshake on', async () => {
    await listen();
    const issue = await createAuthority();
    const [nextSource, nextTarget] = await Promise.all([
      issue({ subject: 'CN=source' }),
      issue({ subject: 'CN=target' }),
    ]);
    const dialer = new TlsDialer(source);
    const old = await dialer.dial(listener.address, never);
    listener.updateCredentials(nextTarget);
    await expect(dialer.dial(listener.address, never)).rejects.toMatchObject({ code: 'peer-refused' });
    dialer.updateCredentials(nextSource);
    expect((await dialer.dial(listener.address, never)).peer.name).toBe('target');
    expect(old.peer.name).toBe('target');
  });

  test('a taken port and a bad address: config-invalid', async () => {
    await listen();
    for (const address of [listener.address, 'nonsense', 'host:99999', '127.0.0.1']) {
      await expect(TlsListener.listen({ address, credentials: target })).rejects.toMatchObject({
        code: 'config-invalid',
      });
    }
  });
});

test('addresses: IPv6 in brackets', () => {
  expect(parseAddress(formatAddress('::1', 7))).toEqual({ host: '::1', port: 7 });
  expect(parseAddress(formatAddress('a.example', 65_535))).toEqual({ host: 'a.example', port: 65_535 });
});
