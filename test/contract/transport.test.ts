import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { TlsDialer } from '../../agent/src/platform/tls-dialer.js';
import { TlsListener } from '../../agent/src/platform/tls-listener.js';
import { SimWorld } from '../sim/world/sim-world.js';
import { createAuthority } from './test-certificates.js';
import { describeTransport } from './transport-contract.js';

const [authority, otherAuthority] = await Promise.all([createAuthority(), createAuthority()]);
const [source, target, stranger] = await Promise.all([
  authority({ subject: 'CN=source' }),
  authority({ subject: 'CN=an appliance', alternativeNames: [{ type: 'url', value: 'tidemark://target' }] }),
  otherAuthority({ subject: 'CN=source' }),
]);

describeTransport('TLS', () =>
  Promise.resolve({
    dialer: new TlsDialer(source),
    strangerDialer: new TlsDialer({ ...stranger, ca: source.ca }),
    listen: () => TlsListener.listen({ address: '127.0.0.1:0', credentials: target }),
    clock: nodeClock,
    drive: (promise) => promise,
    dispose: () => Promise.resolve(),
  }),
);

let seed = 1;
describeTransport('simulated', () => {
  const world = new SimWorld(seed++);
  const there = world.addHost('target').start();
  const here = world.addHost('source').start();
  const strange = world.addHost('stranger').start();
  world.network.setTrusted('stranger', false);
  return Promise.resolve({
    dialer: here.dialer,
    strangerDialer: strange.dialer,
    listen: () => Promise.resolve(there.listen(0)),
    clock: here.clock,
    drive: (promise) => world.drive(promise),
    dispose: () => Promise.resolve(),
  });
});
