/** Peers that are declared by the API. The configuration file goes before them. */
import { z } from 'zod';
import type { AgentConfig } from '../config/schema.js';
import { TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import { Mutex } from '../core/mutex.js';
import type { DeclarePeer, PeerDeclaration, RemovePeer } from '../service/declaration-schemas.js';
import { addressSchema, nameSchema } from '../service/scalars.js';
import { canonicalJson } from '../service/same-request.js';
import type { DeclaredRecords } from './declared-records.js';

export type Peer = AgentConfig['peers'][number];

export const declaredPeerSchema = z.object({
  version: z.literal(1),
  name: nameSchema,
  owner: z.string().nullable(),
  address: addressSchema.optional(),
  api: addressSchema.optional(),
});
export type DeclaredPeer = z.infer<typeof declaredPeerSchema>;

export interface DeclaredPeersOptions {
  readonly records: DeclaredRecords<DeclaredPeer>;
  readonly ofFile: () => readonly Peer[];
  /** Name of the agent itself. */
  readonly agent: string;
  /** Groups that send to it or receive from it. */
  readonly groupsOf: (peer: string) => readonly string[];
  /** Links dial where their peer is now; a peer that is gone is turned away. */
  readonly changed: () => Promise<void>;
  readonly events: EventSink;
}

export class DeclaredPeers {
  private readonly changing = new Mutex();

  constructor(private readonly options: DeclaredPeersOptions) {}

  /** Throws `peer-unknown`. */
  get(name: string): PeerDeclaration {
    const { records, ofFile } = this.options;
    const file = ofFile().find((peer) => peer.name === name);
    const record = records.get(name);
    const peer = file ?? record;
    if (peer === undefined) throw new TidemarkError('peer-unknown', `This agent has no peer ${name}.`);
    return {
      ...{ name, address: peer.address ?? null, api: peer.api ?? null },
      declaredBy: file === undefined ? 'api' : 'file',
      owner: file === undefined ? (record?.owner ?? null) : null,
    };
  }

  declare(name: string, { previousOwner, ...request }: DeclarePeer): Promise<PeerDeclaration> {
    return this.changing.run(async () => {
      const { records, agent, changed, events } = this.options;
      this.refuseOfFile(name);
      if (name === agent) throw new TidemarkError('request-invalid', `${name} is this agent.`, { path: 'name' });
      const known = records.get(name);
      const held = known?.owner ?? null;
      if (held !== null && request.owner !== undefined && request.owner !== held && previousOwner !== held)
        throw new TidemarkError('peer-exists', `Peer ${name} belongs to ${held}.`, { path: 'owner' });
      const { owner = held, ...where } = request;
      const record: DeclaredPeer = { version: 1, name, owner, ...where };
      if (known !== undefined && canonicalJson(known) === canonicalJson(record)) return this.get(name);
      await records.save(record);
      events.emit('peer-declared', { peer: name, ...where });
      await changed();
      return this.get(name);
    });
  }

  remove(name: string, { owner }: RemovePeer): Promise<void> {
    return this.changing.run(async () => {
      const { records, groupsOf, changed, events } = this.options;
      const known = records.get(name);
      if (known === undefined) return this.refuseOfFile(name);
      if (known.owner !== null && owner !== undefined && owner !== known.owner)
        throw new TidemarkError('peer-exists', `Peer ${name} belongs to ${known.owner}.`, { path: 'owner' });
      const groups = groupsOf(name);
      if (groups.length > 0)
        throw new TidemarkError('illegal-state', `Peer ${name} is needed by ${groups.join(', ')}.`, { path: 'name' });
      await records.remove(name);
      events.emit('peer-removed', { peer: name });
      await changed();
    });
  }

  private refuseOfFile(name: string): void {
    if (!this.options.ofFile().some((peer) => peer.name === name)) return;
    throw new TidemarkError(
      'peer-exists',
      `${name} stands in the configuration file of this agent; only there it is changed.`,
      { path: 'name' },
    );
  }
}

/** Peers of this moment: the file's, and those declared that it does not name. */
export function peersNow(ofFile: readonly Peer[], records: DeclaredRecords<DeclaredPeer>): Peer[] {
  return [
    ...ofFile,
    ...records
      .list()
      .filter(({ name }) => !ofFile.some((peer) => peer.name === name))
      .map(({ name, address, api }) => ({ name, address, api })),
  ];
}
