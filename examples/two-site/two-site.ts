/** Two Linux hosts that are reached over SSH: an agent is put on each, and VMs of the first are protected at the second. */
import * as pulumi from '@pulumi/pulumi';
import {
  Authority,
  ProtectedApplication,
  ReplicationAppliance,
  TargetJournal,
  type ApplicationVm,
  type FileDisk,
  type HostArgs,
  type RecoveryRequest,
} from '../../components/index.js';

interface SiteSettings {
  /** Name of the site. */
  readonly site: string;
  readonly address: string;
  /** TYPE BASE64, as `ssh-keyscan` shows it; compare it over a way that you trust. */
  readonly hostKey: string;
  readonly port?: number;
  readonly user?: string;
  readonly sudo?: boolean;
  readonly directory?: string;
  /** Default 0.0.0.0. */
  readonly listenAddress?: string;
  readonly apiPort?: number;
  readonly streamPort?: number;
  /** libvirt of the host. Default: none, disks alone. */
  readonly libvirt?: string;
  /** At the target: an empty block device for the journal. */
  readonly device?: string;
}

const config = new pulumi.Config('two-site');
const privateKey = config.requireSecret('privateKey');
const [source, target] = ['source', 'target'].map((name) => config.requireObject<SiteSettings>(name)) as [
  SiteSettings,
  SiteSettings,
];

function hostOf({ address, hostKey, port, user, sudo }: SiteSettings): HostArgs {
  const login = { ...(port && { port }), ...(user && { user }), ...(sudo && { sudo }) };
  return { kind: 'ssh', address, hostKey, privateKey, ...login };
}

function placeOf({ site, directory, listenAddress, apiPort, streamPort, libvirt }: SiteSettings) {
  return {
    site,
    ...(directory && { directory }),
    ...(listenAddress && { listenAddress }),
    ...(apiPort && { apiPort }),
    ...(streamPort && { streamPort }),
    ...(libvirt && {
      hypervisor: 'libvirt',
      settings: { hypervisors: [{ kind: 'libvirt' as const, name: 'libvirt', uri: libvirt }] },
    }),
  };
}

const common = {
  authority: new Authority('authority'),
  bundle: config.get('bundle'),
  readySeconds: config.getNumber('readySeconds') ?? 120,
};
const journal = new TargetJournal('journal', {
  host: hostOf(target),
  directory: `${target.directory ?? '/opt/tidemark'}-journal`,
  ...(target.device && { device: target.device }),
});
const near = new ReplicationAppliance('near', { ...common, ...placeOf(source), host: hostOf(source) });
const far = new ReplicationAppliance('far', {
  ...common,
  ...placeOf(target),
  ...{ host: hostOf(target), journal, peers: [near] },
});

const shop = new ProtectedApplication('shop', {
  ...{ source: near.site, target: far.site },
  vms: config.getObject<ApplicationVm[]>('vms') ?? [],
  disks: config.getObject<Record<string, FileDisk>>('disks') ?? {},
  rpoSeconds: config.getNumber('rpoSeconds') ?? 10,
  recovery: config.getObject<RecoveryRequest>('recovery'),
});

export const { activeSite, state, addresses } = shop;
