/** The NoCloud medium of a recovered VM, read by programs that others wrote. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { cloudInitSeed, isSeed } from '../../agent/src/recovery/cloud-init.js';
import { isoImage, mediumLabel } from '../../agent/src/recovery/iso-image.js';

const seed = cloudInitSeed('tidemark-1', [
  {
    mac: '52:54:00:AA:BB:01',
    name: 'ens3',
    addressing: {
      addresses: ['10.9.0.5/24', '2001:db8::5/64'],
      gateways: ['10.9.0.1', '2001:db8::1'],
      dns: ['10.9.0.2'],
    },
  },
  { mac: '52:54:00:aa:bb:02', addressing: 'dhcp' },
]);

const network = {
  version: 2,
  ethernets: {
    ens3: {
      match: { macaddress: '52:54:00:aa:bb:01' },
      'set-name': 'ens3',
      dhcp4: false,
      addresses: ['10.9.0.5/24', '2001:db8::5/64'],
      gateway4: '10.9.0.1',
      gateway6: '2001:db8::1',
      nameservers: { addresses: ['10.9.0.2'] },
    },
    nic1: { match: { macaddress: '52:54:00:aa:bb:02' }, dhcp4: true },
  },
};

describe('a cloud-init medium', () => {
  let directory: string;

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'tidemark-seed-'));
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  /** Its files, as another reader of the format sees them. */
  function filesIn(image: Buffer): Record<string, string> {
    const file = join(directory, 'seed.iso');
    writeFileSync(file, image);
    const isoinfo = (...args: string[]): string =>
      execFileSync('isoinfo', ['-i', file, ...args], { encoding: 'utf8', timeout: 30_000 });
    const paths = isoinfo('-f').split('\n').filter(Boolean);
    return Object.fromEntries(paths.map((path) => [path.slice(1), isoinfo('-x', path)]));
  }

  test('isoinfo finds the three files, blkid the label that cloud-init looks for', () => {
    const files = filesIn(seed);
    const probed = execFileSync('blkid', ['-p', '-o', 'export', join(directory, 'seed.iso')], { encoding: 'utf8' });
    expect(probed).toContain('LABEL=cidata\n');
    expect(probed).toContain('TYPE=iso9660\n');
    expect(Object.keys(files).sort()).toEqual(['meta-data', 'network-config', 'user-data']);
    expect(JSON.parse(files['meta-data']!)).toEqual({ 'instance-id': 'tidemark-1' });
    expect(JSON.parse(files['network-config']!)).toEqual(network);
    const [head, ...rest] = files['user-data']!.split('\n');
    expect(head).toBe('#cloud-config');
    expect(JSON.parse(rest.join('\n'))).toEqual({ ssh_deletekeys: false, preserve_hostname: true, users: [] });
  });

  test('files of any length, empty ones too', () => {
    const contents = [0, 1, 2047, 2048, 2049, 70_000].map((length) => 'x'.repeat(length));
    const image = isoImage(
      'any',
      contents.map((content, index) => ({ name: `file-${index}`, content: Buffer.from(content) })),
    );
    expect(Object.values(filesIn(image))).toEqual(contents);
  });

  test('is recognised by its label, whatever made it', () => {
    expect(isSeed(seed)).toBe(true);
    expect(mediumLabel(isoImage('CIDATA', []))).toBe('CIDATA');
    expect(isSeed(isoImage('debian', []))).toBe(false);
    const fat = Buffer.alloc(4096);
    fat.write('CIDATA     FAT12   ', 43, 'latin1');
    fat.writeUInt16LE(0xaa55, 510);
    expect(isSeed(fat)).toBe(true);
    for (const length of [0, 511, 512, 32_768, 34_815]) expect(isSeed(Buffer.alloc(length, 0x41))).toBe(false);
  });

  test('the same addresses are the same medium', () => {
    const again = (): Buffer => cloudInitSeed('one', [{ mac: '52:54:00:aa:bb:02', addressing: 'dhcp' }]);
    expect(again().equals(again())).toBe(true);
  });
});
