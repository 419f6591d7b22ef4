import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { PeerClients } from '../../agent/src/runtime/peer-clients.js';
import { ApiFixture } from '../support/api-fixture.js';

describe('peer clients', () => {
  let fixture: ApiFixture;
  let peers: { name: string; api?: string }[] = [];
  let clients: PeerClients;
  beforeAll(async () => {
    fixture = await ApiFixture.start();
    const pair = await fixture.issue('src-1');
    clients = new PeerClients({
      peers: () => peers,
      tls: () => ({ ...pair, authority: fixture.authority.certificate }),
    });
  });
  afterAll(() => fixture.stop());

  test('calls as the agent that it is; the address of the configuration in force counts', async () => {
    peers = [{ name: 'fra-1', api: fixture.server.address }];
    expect((await clients.use('fra-1', (client) => client.agent())).caller).toEqual({ name: 'src-1', role: 'peer' });
  });

  test('the name in the certificate must be the one that was asked for', async () => {
    peers = [{ name: 'fra-2', api: fixture.server.address }];
    await expect(clients.use('fra-2', (client) => client.agent())).rejects.toMatchObject({
      code: 'peer-refused',
      message: 'the certificate is of fra-1, not fra-2',
    });
  });

  test('without an address the property to set is named', async () => {
    peers = [{ name: 'fra-1' }];
    expect(() => clients.check('fra-1')).toThrow(
      expect.objectContaining({ code: 'peer-api-unknown', path: 'peers[0].api' }),
    );
    await expect(clients.use('nobody', (client) => client.agent())).rejects.toMatchObject({
      code: 'peer-api-unknown',
      path: 'peers',
    });
  });

  test('nobody answers: peer-unreachable', async () => {
    peers = [{ name: 'fra-1', api: '127.0.0.1:1' }];
    await expect(clients.use('fra-1', (client) => client.agent())).rejects.toMatchObject({ code: 'peer-unreachable' });
  });
});
