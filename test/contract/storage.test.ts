import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NodeStorage } from '../../agent/src/platform/node-storage.js';
import { SimWorld } from '../sim/world/sim-world.js';
import { describeStorage } from './storage-contract.js';

describeStorage('node', async () => {
  const root = await mkdtemp(join(tmpdir(), 'tidemark-storage-'));
  return {
    storage: new NodeStorage(),
    root,
    drive: (promise) => promise,
    dispose: () => rm(root, { recursive: true }),
  };
});

let seed = 1;
describeStorage('simulated', async () => {
  const world = new SimWorld(seed++);
  const { storage } = world.addHost('a').start();
  await world.drive(storage.makeDirectory('/data'));
  return {
    storage,
    root: '/data',
    drive: (promise) => world.drive(promise),
    dispose: () => Promise.resolve(),
  };
});
