/** Protects `shop` from one agent to another that both run already; the pipeline asks for transitions by configuration. */
import * as pulumi from '@pulumi/pulumi';
import { ProtectedApplication, Site, type RecoveryRequest } from '../../components/index.js';

const config = new pulumi.Config('failover-in-ci');
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

export const { activeSite, state, lastOperation } = shop;
