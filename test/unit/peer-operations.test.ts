import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { AgentClient } from '../../agent/src/client/agent-client.js';
import { checkTransition, legalActions } from '../../agent/src/target/state-machine.js';
import { ApiFixture } from '../support/api-fixture.js';
import { fakeGroup } from '../support/fake-service.js';

describe('what a peer may ask for', () => {
  let fixture: ApiFixture;
  let peer: AgentClient;
  beforeAll(async () => {
    fixture = await ApiFixture.start();
    peer = await fixture.client('src-1');
    const { groupList } = fixture.service;
    groupList.set('sent', fakeGroup('sent', { role: 'source' }));
    groupList.set('elsewhere', fakeGroup('elsewhere', { role: 'source', links: [] }));
  });
  afterAll(() => fixture.stop());

  const stop = (id: string, group: string) => peer.startOperation(id, { kind: 'stop-vms', group, arguments: {} });

  test('to stop and start the VMs of a group that is sent to it, and to see how that goes', async () => {
    expect(await stop('one', 'sent')).toMatchObject({ kind: 'stop-vms', drivenBy: 'src-1' });
    expect((await peer.waitOperation('one')).state).toBe('succeeded');
    const start = { kind: 'start-vms', group: 'sent', arguments: { stop: 'one' } } as const;
    expect((await peer.startOperation('two', start)).state).toBe('succeeded');
  });

  test('nothing of a group of others, nothing of one that is kept here, no other operation', async () => {
    await expect(stop('three', 'elsewhere')).rejects.toMatchObject({ code: 'forbidden' });
    await expect(stop('three', 'shop')).rejects.toMatchObject({ code: 'forbidden' });
    const failover = peer.startOperation('three', { kind: 'failover', group: 'sent', arguments: {} });
    await expect(failover).rejects.toMatchObject({ code: 'forbidden' });
    await expect(peer.cancelOperation('one')).rejects.toMatchObject({ code: 'forbidden' });
  });

  test('operations of others are not there for it', async () => {
    const alice = await fixture.client('alice');
    await alice.startOperation('hers', { kind: 'rebuild', group: 'shop', arguments: {} });
    await expect(peer.operation('hers')).rejects.toMatchObject({ code: 'operation-unknown' });
  });
});

test('a move is legal while the source replicates, and only then', () => {
  expect(legalActions('protecting')).toContain('move');
  for (const state of ['failed-over', 'committing', 'committed'] as const)
    expect(() => checkTransition('shop', state, 'move')).toThrow(expect.objectContaining({ code: 'illegal-state' }));
});
