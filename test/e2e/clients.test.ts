/** The clients that people use, against capture exports and views of real agents, over unix sockets and TLS. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { randomFillSync } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import type { ViewStatus } from '../../agent/src/service/view-schemas.js';
import { Laboratory } from '../support/laboratory.js';
import { startPair, type Pair } from '../support/pair.js';
import { makeSparseFile, runNbdcopy, runQemuIo } from '../support/tools.js';

const MiB = 1024 * 1024;
const sizeBytes = 32 * MiB;

let lab: Laboratory;
let pair: Pair;
/** Home of a user that libnbd looks for certificates in. */
let home: string;

beforeAll(async () => {
  lab = await Laboratory.open();
  pair = await startPair(lab, {
    checkpointIntervalSeconds: 1,
    disks: [
      { name: 'data', sizeBytes, kind: 'in-path', file: makeSparseFile(lab.path('data.raw'), sizeBytes) },
      { name: 'mirror', sizeBytes, file: makeSparseFile(lab.path('mirror.raw'), sizeBytes) },
    ],
    sourceSettings: { nbdTcp: true, drainSeconds: 5 },
    targetSettings: { nbdTcp: true },
  });
  await pair.waitProtecting();
  home = mkdtempSync('/tmp/tidemark-home-');
  const certificates = join(home, '.pki', 'libnbd');
  mkdirSync(certificates, { recursive: true });
  for (const [from, to] of [
    ['ca.crt', 'ca-cert.pem'],
    ['operator.crt', 'client-cert.pem'],
    ['operator.key', 'client-key.pem'],
  ] as const) {
    copyFileSync(join(lab.pkiDirectory, from), join(certificates, to));
    chmodSync(join(certificates, to), 0o644);
  }
  chmodSync(home, 0o755);
}, 60_000);

afterAll(async () => {
  rmSync(home, { recursive: true, force: true });
  await lab.close();
});

type Transport = 'unix' | 'TLS';

async function captureUri(disk: string, transport: Transport): Promise<string> {
  if (transport === 'unix') return pair.exportUri(disk);
  return `nbds://${pair.source.addresses.nbd}/${pair.group}/${disk}`;
}

function viewUri(view: ViewStatus, disk: string, transport: Transport): string {
  const found = view.disks.find(({ name }) => name === disk)!;
  return transport === 'unix' ? found.uri : found.tlsUri!;
}

/** libnbd's programs take the place of certificates in the URI; fio only in the home of a user that is not root. */
function withCertificates(uri: string): string {
  return uri.startsWith('nbds:') ? `${uri}?tls-certificates=${join(home, '.pki', 'libnbd')}` : uri;
}

async function fioVerify(uri: string): Promise<void> {
  const fio = [
    ...['fio', '--name=verify', '--ioengine=nbd', `--uri=${uri}`, '--verify_state_save=0', '--rw=randwrite'],
    ...['--bs=4k', '--iodepth=16', '--size=8m', '--verify=crc32c', '--verify_fatal=1', '--do_verify=1', '--fsync=64'],
  ];
  const asNobody = process.geteuid?.() === 0 && uri.startsWith('nbds:');
  const command = asNobody ? ['setpriv', '--reuid=65534', '--clear-groups', ...fio] : fio;
  await lab.processes.run('env', ['-C', home, `HOME=${home}`, ...command]);
}

async function openView(id: string): Promise<ViewStatus> {
  await pair.source.client.createCheckpoint(pair.group, { kind: 'tagged', label: id });
  return pair.target.client.openView(pair.group, { id, at: { by: 'label', label: id }, purpose: 'drill' });
}

/** The test with the program, or a skipped one that says why. */
function withProgram(program: string, name: string, body: () => Promise<void>): void {
  if (existsSync(`/usr/bin/${program}`)) test(name, body, 60_000);
  else test.skip(`${name} (skipped: ${program} is not installed)`, body);
}

describe.each(['unix', 'TLS'] as const)('over %s', (transport) => {
  withProgram('nbdinfo', 'nbdinfo shows the capture export', async () => {
    for (const disk of ['data', 'mirror']) {
      const uri = withCertificates(await captureUri(disk, transport));
      const shown = JSON.parse(await lab.processes.run('nbdinfo', ['--json', uri])) as {
        TLS: boolean;
        exports: Record<string, unknown>[];
      };
      expect(shown.TLS).toBe(transport === 'TLS');
      expect(shown.exports[0]).toMatchObject({
        'export-name': `${pair.group}/${disk}`,
        'export-size': sizeBytes,
        can_multi_conn: true,
        can_fua: true,
      });
    }
  });

  withProgram('nbdcopy', 'nbdcopy in through the capture, out through a view', async () => {
    const bytes = Buffer.alloc(sizeBytes);
    for (let at = 0; at < sizeBytes; at += 3 * 256 * 1024) randomFillSync(bytes, at, 65_536);
    const image = lab.path(`image-${transport}.raw`);
    writeFileSync(image, bytes);
    for (const disk of ['data', 'mirror']) {
      await runNbdcopy(lab.processes, image, withCertificates(await captureUri(disk, transport)));
    }
    const view = await openView(`copy-${transport.toLowerCase()}`);
    for (const disk of ['data', 'mirror']) {
      const out = lab.path(`out-${disk}-${transport}.raw`);
      await runNbdcopy(lab.processes, withCertificates(viewUri(view, disk, transport)), out);
      expect(readFileSync(out).equals(bytes)).toBe(true);
    }
    expect(readFileSync(lab.path('data.raw')).equals(bytes)).toBe(true);
    await pair.target.client.closeView(pair.group, view.id);
  });

  withProgram('fio', 'fio writes and verifies: in-path export, and a view', async () => {
    await fioVerify(await captureUri('data', transport));
    const view = await openView(`fio-${transport.toLowerCase()}`);
    await fioVerify(viewUri(view, 'data', transport));
    // A view is private: the disk is as it was.
    await pair.target.client.closeView(pair.group, view.id);
    const again = await openView(`after-${transport.toLowerCase()}`);
    const out = lab.path(`after-${transport}.raw`);
    await runNbdcopy(lab.processes, viewUri(again, 'data', 'unix'), out);
    expect(readFileSync(out).equals(readFileSync(lab.path('data.raw')))).toBe(true);
    await pair.target.client.closeView(pair.group, again.id);
  });
});

describe('QEMU', () => {
  withProgram('qemu-io', 'qemu-io writes, zeroes and discards through the capture; the view shows it', async () => {
    await runQemuIo(lab.processes, await pair.exportUri('data'), [
      ...['write -P 17 0 64k', 'write -P 34 1M 3M', 'write -f -P 68 16M 4k', 'write -z 2M 64k', 'discard 3M 64k'],
      ...['write -z -u 20M 1M', 'flush', 'read -P 34 1M 1M', 'read -P 0 2M 64k', 'read -P 0 3M 64k'],
    ]);
    const view = await openView('qemu-io');
    await runQemuIo(lab.processes, viewUri(view, 'data', 'unix'), [
      ...['read -P 17 0 64k', 'read -P 34 1M 1M', 'read -P 0 2M 64k', 'read -P 0 3M 64k', 'read -P 68 16M 4k'],
      ...['write -P 85 8M 1M', 'write -z 0 64k', 'discard 1M 1M', 'flush', 'read -P 85 8M 1M', 'read -P 0 0 64k'],
    ]);
    await pair.target.client.closeView(pair.group, view.id);
  });

  withProgram('qemu-img', 'qemu-img finds a view equal to the disk', async () => {
    const view = await openView('compare');
    const compared = await lab.processes.run('qemu-img', [
      ...['compare', '-f', 'raw', '-F', 'raw', viewUri(view, 'data', 'unix'), lab.path('data.raw')],
    ]);
    expect(compared).toContain('identical');
    await pair.target.client.closeView(pair.group, view.id);
  });

  withProgram('qemu-io', 'qemu-io over TLS', async () => {
    const [host, port] = pair.source.addresses.nbd.split(':');
    const credentials = `tls-creds-x509,id=tls,endpoint=client,dir=${join(home, '.pki', 'libnbd')}`;
    const image = `driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=${host},file.server.port=${port},file.export=${pair.group}/data,file.tls-creds=tls`;
    const output = await lab.processes.run('qemu-io', [
      ...['--object', credentials, '--image-opts', '-c', 'write -P 99 24M 64k', '-c', 'read -P 99 24M 64k', image],
    ]);
    expect(output).toContain('wrote 65536/65536');
    expect(output).not.toMatch(/failed/);
  });
});
