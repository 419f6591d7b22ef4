/** Protects the disks of `shop` at a second agent; a transition comes from the stack's configuration. */
import * as pulumi from '@pulumi/pulumi';
import { ProtectedApplication, Site, type RecoveryRequest } from '../../components/index.js';

const config = new pulumi.Config('quickstart');
const here = new Site('here', { site: 'amsterdam', agent: config.require('sourceAgent') });
const there = new Site('there', {
  site: 'frankfurt',
  agent: config.require('targetAgent'),
  connection: { api: config.require('targetApi') },
});

const shop = new ProtectedApplication('shop', {
  source: here,
  target: there,
  disks: { data: config.require('diskSize') },
  rpoSeconds: 2,
  recovery: config.getObject<RecoveryRequest>('recovery'),
});

export const { activeSite, state, addresses } = shop;
