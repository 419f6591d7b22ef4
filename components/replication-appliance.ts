/** An appliance at a site, with everything it needs: its certificate, its agent, and the peers that it replicates with. */
import * as pulumi from '@pulumi/pulumi';
import {
  AgentEnrolment,
  Appliance,
  SitePeering,
  type ApplianceSettings,
  type HostArgs,
  type TargetJournal,
} from './appliance-resources.js';
import type { Authority } from './authority.js';
import { Site } from './site.js';

export interface ReplicationApplianceArgs {
  readonly authority: Authority;
  /** Name of the site. */
  readonly site: string;
  /** Name of the agent. Default: the name of the resource. */
  readonly agent?: string;
  /** The machine: this one, or an existing Linux host over SSH. Its private key is kept as a secret. */
  readonly host: HostArgs;
  /** Everything of the appliance lies below it. Default on SSH hosts: /opt/tidemark. */
  readonly directory?: string;
  /** Where journals lie. Default: `data` below the directory. */
  readonly journal?: TargetJournal;
  /** Agents that it sends to or receives from, in both directions. Name it at the later of the two. */
  readonly peers?: readonly ReplicationAppliance[];
  /** Hypervisor of `settings.hypervisors` whose VMs are captured here, and on which VMs come back. */
  readonly hypervisor?: string;
  /** Name or address under which Pulumi and the peers reach it. Default: that of the host. */
  readonly address?: string;
  readonly listenAddress?: string;
  /** Default 7440. */
  readonly apiPort?: number;
  /** Default 7441. */
  readonly streamPort?: number;
  readonly settings?: ApplianceSettings;
  /** Executable of the agent, on the machine that runs Pulumi. Default: the one of this package. */
  readonly bundle?: string | undefined;
  /** Seconds in which a new agent must answer as ready; else the one that was there comes back. Default 120. */
  readonly readySeconds?: number;
  /** Counts once an update applied it: destroy deletes the data below `directory`, too. */
  readonly forceDestroy?: boolean;
}

export class ReplicationAppliance extends pulumi.ComponentResource {
  /** For applications. */
  readonly site: Site;
  readonly agent: string;
  readonly appliance: Appliance;

  constructor(name: string, args: ReplicationApplianceArgs, options?: pulumi.ComponentResourceOptions) {
    super('tidemark:index:ReplicationAppliance', name, {}, options);
    const { authority, host, journal, peers = [], hypervisor, ...settings } = args;
    this.agent = args.agent ?? name;
    const address = args.address ?? (host.kind === 'ssh' ? host.address : '127.0.0.1');
    const parent = { parent: this };
    const enrolment = new AgentEnrolment(
      name,
      { authority: authority.issuer, name: this.agent, hosts: [address] },
      parent,
    );
    this.appliance = new Appliance(
      name,
      {
        ...settings,
        ...{ host, agent: this.agent, directory: directoryOf(name, args) },
        ...{ certificate: enrolment.certificate, key: enrolment.key, authority: authority.issuer.certificate },
        operators: [authority.operator],
        ...(journal === undefined ? {} : { dataDirectory: journal.dataDirectory, mountPoint: journal.mountPoint }),
      },
      // One after the other: an agent that stops to be upgraded sends what it has to a peer that is there.
      { ...parent, dependsOn: peers.map(({ appliance }) => appliance) },
    );
    const peerings = peers.map(
      (peer) =>
        new SitePeering(
          `${name}-${peer.agent}`,
          { first: peer.peered(), second: this.peered() },
          { ...parent, provider: authority.provider },
        ),
    );
    this.site = new Site(
      name,
      {
        ...{ site: args.site, agent: this.agent, connection: { api: this.appliance.api } },
        ...(hypervisor === undefined ? {} : { hypervisor }),
        ...{ provider: authority.provider, ready: peerings },
      },
      parent,
    );
    this.registerOutputs({ api: this.appliance.api, agent: this.agent });
  }

  private peered() {
    const { agent, appliance } = this;
    return { connection: { api: appliance.api }, agent, stream: appliance.stream };
  }
}

/** Its own properties of an appliance stay; those of the component go. */
function directoryOf(name: string, { directory, host }: ReplicationApplianceArgs): string {
  if (directory !== undefined) return directory;
  if (host.kind === 'ssh') return '/opt/tidemark';
  throw new Error(`${name}: directory: an appliance on this machine needs one`);
}
