/** Two sites on this machine, and a disk that is protected from one to the other; a transition comes from configuration. */
import * as pulumi from '@pulumi/pulumi';
import { Authority, ProtectedApplication, ReplicationAppliance, type RecoveryRequest } from '../../components/index.js';

const config = new pulumi.Config('quickstart');
const directory = config.require('directory');
const port = config.getNumber('port') ?? 7440;

const authority = new Authority('authority');
const onThisMachine = { authority, host: { kind: 'this-machine' as const }, bundle: config.get('bundle') };
const here = new ReplicationAppliance('here', {
  ...onThisMachine,
  site: 'amsterdam',
  directory: `${directory}/here`,
  apiPort: port,
  streamPort: port + 1,
});
const there = new ReplicationAppliance('there', {
  ...onThisMachine,
  site: 'frankfurt',
  directory: `${directory}/there`,
  apiPort: port + 10,
  streamPort: port + 11,
  peers: [here],
});

const shop = new ProtectedApplication('shop', {
  source: here.site,
  target: there.site,
  disks: { data: { file: config.require('file'), size: config.require('size') } },
  rpoSeconds: 2,
  recovery: config.getObject<RecoveryRequest>('recovery'),
  waitFor: 'synced',
});

export const { activeSite, state, addresses } = shop;
/** For the command line: `tidemark --api … --certificate … --key … --authority …`. */
export const api = { here: here.appliance.api, there: there.appliance.api };
export const operator = {
  certificate: authority.certificate,
  key: authority.key,
  authority: authority.issuer.certificate,
};
