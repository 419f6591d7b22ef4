/** What is put on hosts: the systemd unit, generations, and the answers of small scripts on this machine. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { directorySchema, generationId, type Generation } from '../../components/appliance/layout.js';
import { localHost } from '../../components/appliance/local-host.js';
import { prepareVolume, volumeUuid } from '../../components/appliance/journal-volume.js';
import { hostSchema } from '../../components/appliance/open-host.js';
import { readFile, sh, upload, writeFile } from '../../components/appliance/scripts.js';
import { unitText } from '../../components/appliance/unit.js';
import { repositoryRoot } from '../support/paths.js';

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'tidemark-appliance-'));
  const unit = readFileSync(join(repositoryRoot(), 'packaging', 'tidemark-agent.service'), 'utf8');
  Object.assign(globalThis, { __TIDEMARK_UNIT__: unit });
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

describe('the systemd unit', () => {
  const place = { directory: '/opt/t', dataDirectory: '/srv/journal/data', agent: 'far', mountPoint: '/srv/journal' };

  test('has its own paths, mounts its journal first, and keeps what hardens the packaged one', () => {
    const lines = unitText(place).split('\n');
    expect(lines).toEqual(
      expect.arrayContaining([
        'ExecStartPre=+/bin/sh /srv/journal.mount /srv/journal',
        'ExecStart=/opt/t/current/tidemark agent run --config /opt/t/current/agent.yaml',
        'ReadWritePaths=/opt/t /srv/journal/data',
        ...['NoNewPrivileges=yes', 'ProtectSystem=strict', 'Restart=always', 'Type=notify'],
      ]),
    );
    expect(lines.filter((line) => /^(Runtime|State|Configuration)Directory/.test(line))).toEqual([]);
    expect(unitText({ ...place, mountPoint: '' })).not.toContain('ExecStartPre');
  });

  const verifies = spawnSync('systemd-analyze', ['--version']).error === undefined;
  (verifies ? test : test.skip)(`systemd takes it${verifies ? '' : ' (skipped: no systemd-analyze here)'}`, () => {
    const file = join(directory, 'tidemark-far.service');
    // The executable must be there for it.
    writeFileSync(file, unitText(place).replaceAll('/opt/t/current/tidemark', '/bin/true'));
    const { status, stderr } = spawnSync('systemd-analyze', ['verify', '--man=no', '--recursive-errors=no', file], {
      encoding: 'utf8',
      timeout: 30_000,
    });
    expect(stderr.split('\n').filter((line) => line.includes('tidemark-far.service'))).toEqual([]);
    expect(status).toBe(0);
  });
});

describe('generations', () => {
  const generation: Generation = {
    ...{ bundleSha256: 'a'.repeat(64), certificate: 'c', key: 'k', authority: 'a' },
    config: { site: 's', agent: 'a', tls: { certificate: 'c', key: 'k', authority: 'a' } },
  };

  test('the same content is the same one, any other another', () => {
    expect(generationId({ ...generation })).toBe(generationId(generation));
    const others = [{ bundleSha256: 'b' }, { key: 'other' }, { config: { ...generation.config, site: 'x' } }];
    for (const other of others) expect(generationId({ ...generation, ...other })).not.toBe(generationId(generation));
  });

  test('a directory is a plain path, short enough for sockets', () => {
    for (const good of ['/opt/tidemark', '/a']) expect(directorySchema.safeParse(good).success).toBe(true);
    for (const bad of ['opt', '/', '/a/../b', '/a b', '/a/', `/${'x'.repeat(60)}`, '/a;b', '/$(id)'])
      expect([bad, directorySchema.safeParse(bad).success]).toEqual([bad, false]);
  });
});

describe('hosts', () => {
  const ssh = { kind: 'ssh', address: 'h', hostKey: 'ssh-ed25519 AAAA', privateKey: 'x' };

  test('an SSH host needs its key, and exactly one way to log in', () => {
    expect(hostSchema.safeParse(ssh).success).toBe(true);
    for (const bad of [
      { ...ssh, hostKey: undefined },
      { ...ssh, hostKey: 'h ssh-ed25519 AAAA' },
      { ...ssh, privateKey: undefined },
      { ...ssh, agentSocket: '/s' },
      { ...ssh, user: '-oProxyCommand=x' },
      { kind: 'telnet' },
    ])
      expect(hostSchema.safeParse(bad).success).toBe(false);
  });

  test('files are replaced whole, with their mode; what is not there is undefined', async () => {
    const file = join(directory, 'deep', "it's $(id) a file");
    expect(await readFile(localHost, file)).toBeUndefined();
    await writeFile(localHost, file, 'one\n', '0600');
    await writeFile(localHost, file, 'two\n', '0600');
    expect(await readFile(localHost, file)).toBe('two\n');
    expect(statSync(file).mode & 0o777).toBe(0o600);
  });

  test('an upload that is not what was announced is refused and leaves nothing', async () => {
    const file = join(directory, 'bundle', 'tidemark');
    await expect(upload(localHost, file, 'f'.repeat(64), () => Readable.from(['x']))).rejects.toThrow(/damaged/);
    expect(await readFile(localHost, file)).toBeUndefined();
  });

  test('a script that fails says so in its words; one that takes too long is ended', async () => {
    const failing = sh(localHost, 'trying', 'echo "no $1" >&2; exit 3', ['luck']);
    await expect(failing).rejects.toMatchObject({ code: 'host-failed', message: expect.stringMatching(/3: no luck/) });
    await expect(localHost.run('exec sleep 60', [], { timeoutMs: 100 })).rejects.toMatchObject({ code: 'timed-out' });
  });

  test('what is no block device is not formatted', async () => {
    const file = join(directory, 'file');
    writeFileSync(file, '');
    const volume = {
      directory: join(directory, 'm'),
      device: file,
      fileSystem: 'ext4',
      uuid: volumeUuid('x'),
    } as const;
    await expect(prepareVolume(localHost, volume)).rejects.toMatchObject({ code: 'device-not-empty' });
    expect(volume.uuid).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/);
  });
});
