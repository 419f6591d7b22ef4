/** The demo's Pulumi program: a database and its client, protected from Amsterdam to Frankfurt as one group. */
import * as pulumi from '@pulumi/pulumi';
import { ProtectedApplication, Site, type ApplicationVm, type RecoveryRequest } from '../../components/index.js';

const config = new pulumi.Config();
const disks = config.requireObject<Readonly<Record<'db' | 'client', ApplicationVm['disks']>>>('disks');

function site(name: string): Site {
  const agent = config.requireObject<{ readonly name: string; readonly api: string }>(name);
  return new Site(name, { site: name, agent: agent.name, connection: { api: agent.api }, hypervisor: 'local' });
}

const database: ApplicationVm = {
  name: 'db',
  disks: disks.db,
  wave: 1,
  readiness: [{ kind: 'command', command: ['/opt/postgresql/pg_isready', '-h', '/run'] }],
  sourceAddresses: ['10.77.0.2'],
};
/** Its address belongs to the site. */
const client: ApplicationVm = {
  name: 'client',
  disks: disks.client,
  wave: 2,
  readiness: [{ kind: 'guest-agent' }],
  addresses: [{ nic: 0, live: { addresses: ['10.77.0.30/24'] } }],
  sourceAddresses: ['10.77.0.3'],
};
/** Every minute a checkpoint at which the database is held: its client first, and only for moments. */
const hooks = {
  vms: [
    { vm: 'client', tier: 1, hooks: [{ kind: 'fsfreeze' as const }] },
    {
      vm: 'db',
      tier: 2,
      hooks: [
        { kind: 'postgresql' as const, host: '/run', psql: '/opt/postgresql/psql' },
        { kind: 'fsfreeze' as const },
      ],
    },
  ],
  schedule: { cron: '* * * * *' },
};
const backHome = [
  { vm: 'db', wave: 1, readiness: [...database.readiness!] },
  { vm: 'client', wave: 2, addresses: [{ nic: 0, live: { addresses: ['10.77.0.3/24'] } }] },
];

const shop = new ProtectedApplication('shop', {
  source: site('amsterdam'),
  target: site('frankfurt'),
  vms: [database, client],
  rpoSeconds: 2,
  hooks,
  waitFor: 'synced',
  home: { recovery: { vms: backHome } },
  recovery: config.getObject<RecoveryRequest>('recovery'),
});

export const { activeSite, addresses, state } = shop;
