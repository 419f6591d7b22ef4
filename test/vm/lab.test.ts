import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { describe, expect, test } from '@jest/globals';
import { addressScript } from '../../agent/src/recovery/addresses.js';
import type { Virsh } from '../../agent/src/hypervisor/virsh.js';
import { guestExec } from '../support/guest-agent.js';
import { guestImage } from '../support/guest-image.js';
import { Laboratory } from '../support/laboratory.js';
import { repositoryRoot } from '../support/paths.js';
import { PrivateLibvirt } from '../support/private-libvirt.js';
import type { Processes } from '../support/processes.js';
import { checkApplication, checkLive, network, startTwoTier, tiers, waitApplication } from '../support/two-tier.js';
import { whyNoVms } from '../support/vm-host.js';
import { waitFor } from '../support/wait.js';
import { seconds, tell } from './tell.js';

const reason = whyNoVms();
const describeVms = reason === undefined ? describe : describe.skip;

/** Processes and network devices that a site has. */
interface Traces {
  readonly pids: readonly number[];
  readonly bridge: string;
}

async function expectGone(processes: Processes, { pids, bridge }: Traces): Promise<void> {
  await waitFor(
    'processes and bridge are gone',
    () => ![...pids.map((pid) => `/proc/${pid}`), `/sys/class/net/${bridge}`].some(existsSync),
  );
  for (const tool of ['iptables', 'ip6tables'])
    for (const table of ['filter', 'nat', 'mangle'])
      await waitFor(`no rule of ${tool} names ${bridge}`, async () => {
        const rules = await processes.run(tool, ['-w', '-t', table, '-S']);
        return !new RegExp(`-[io] ${bridge}( |$)`, 'm').test(rules);
      });
}

/** A network in which this host is the gateway and gives addresses. */
async function createNetworkWithDhcp(lab: Laboratory, virsh: Virsh): Promise<string> {
  const file = lab.path('dhcp.xml');
  writeFileSync(
    file,
    `<network><name>${network}</name><bridge stp='off' delay='0'/>
    <ip address='10.77.0.1' netmask='255.255.255.0'><dhcp><range start='10.77.0.100' end='10.77.0.120'/></dhcp></ip></network>`,
  );
  await virsh.run(['net-create', file]);
  return /<bridge name='([^']*)'/.exec(await virsh.run(['net-dumpxml', network]))![1]!;
}

function connects(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: 2000 });
    const end = (works: boolean): void => {
      socket.destroy();
      resolve(works);
    };
    socket.once('connect', () => end(true));
    socket.once('timeout', () => end(false));
    socket.once('error', () => end(false));
  });
}

describeVms(`the laboratory of virtual machines${reason === undefined ? '' : ` (skipped: ${reason})`}`, () => {
  test('an application on qcow2 disks: transactions, checks, addresses, and nothing is left', async () => {
    let traces: Traces;
    const lab = await Laboratory.open();
    try {
      await guestImage(lab.processes);
      const startedMs = performance.now();
      {
        await using libvirt = await PrivateLibvirt.start(lab.processes, lab.path('a'));
        const { virsh } = libvirt;
        const bridge = await createNetworkWithDhcp(lab, virsh);
        await startTwoTier(lab, virsh, { format: 'qcow2' });
        traces = { pids: tiers.map(({ name }) => libvirt.qemuPid(name)), bridge };
        await waitApplication(virsh);
        tell(`application on qcow2 after ${seconds(performance.now() - startedMs)} s`);

        const { missing, present } = await checkApplication(virsh);
        expect({ missing, some: present > 0 }).toEqual({ missing: [], some: true });
        const live = await checkLive(virsh);
        expect({ missing: live.missing, some: live.acknowledged > 0 }).toEqual({ missing: [], some: true });

        const run = (...command: string[]): Promise<string> => guestExec(virsh, 'db', command);
        await expect(run('/bin/sh', '-c', 'echo because >&2; exit 3')).rejects.toThrow('ended with 3: because');
        await expect(guestExec(virsh, 'db', ['/bin/sleep', '60'], { timeoutMs: 100 })).rejects.toThrow('took over');

        const { mac } = tiers[0]!;
        const address = (script: string): Promise<string> => run('/bin/sh', '-c', script, 'address', mac);
        const here = (): Promise<string> => run('ip', '-brief', 'address', 'show', 'dev', 'eth0');
        await address(
          addressScript({ addresses: ['10.77.0.20/24', 'fd77::20/64'], gateways: ['10.77.0.1'], dns: ['10.77.0.1'] })!,
        );
        expect(await here()).toMatch(/10\.77\.0\.20\/24.* fd77::20\/64/);
        expect(await run('ip', 'route')).toMatch(/^default via 10\.77\.0\.1 dev eth0/);
        expect([await connects('10.77.0.2', 5432), await connects('10.77.0.20', 5432)]).toEqual([false, true]);
        await address(addressScript('dhcp')!);
        const leased = /10\.77\.0\.1[012]\d/.exec(await here())?.[0] ?? 'no lease';
        expect([await connects('10.77.0.20', 5432), await connects(leased, 5432)]).toEqual([false, true]);
        tell(`checked after ${seconds(performance.now() - startedMs)} s`);
      }
      await expectGone(lab.processes, traces);
      tell(`ended after ${seconds(performance.now() - startedMs)} s`);
    } finally {
      await lab.close();
    }
    expect(existsSync(lab.directory)).toBe(false);
  }, 900_000);

  test('kill -9 of the owner takes its VM, its daemons and its network along', async () => {
    await using lab = await Laboratory.open();
    const root = repositoryRoot();
    const owner = lab.processes.start('owner', process.execPath, [
      `${root}/scripts/run-ts.ts`,
      `${root}/test/vm/abandoned-site.ts`,
      lab.directory,
    ]);
    const site = await waitFor('the site', () => {
      owner.failIfExited();
      const line = /^\{.*\}$/m.exec(readFileSync(owner.logFile, 'utf8'))?.[0];
      return line !== undefined && (JSON.parse(line) as { pid: number; qemuPid: number; bridge: string });
    });
    process.kill(site.pid, 'SIGKILL');
    await expectGone(lab.processes, { pids: [site.pid, site.qemuPid], bridge: site.bridge });
    expect(await lab.processes.run('ps', ['-eo', 'args'])).not.toContain(`${lab.directory}/v/`);
  }, 60_000);
});
