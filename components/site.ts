/** A site: where VMs run or journals live, and how its agent is reached. */
import * as pulumi from '@pulumi/pulumi';
import type { Inputs, SiteConnection } from './resources.js';

export interface SiteArgs {
  /** Name of the site, as its agent's configuration says. */
  readonly site: string;
  /** Name of its agent: the CN of the agent's certificate. */
  readonly agent: string;
  /**
   * API of the agent. Needed where journals live; a source may be reached through its target alone. With it, what is
   * captured at a source is declared there; without it, the source's own configuration file says so.
   */
  readonly connection?: Inputs<SiteConnection>;
  /** Hypervisor of the agent's configuration on which VMs run and come back. */
  readonly hypervisor?: string;
  /** What would fail together, e.g. a region; for policy packs. */
  readonly failureDomain?: string;
  /** Shows the agent an operator's certificate. Default: the stack's configuration. */
  readonly provider?: pulumi.ProviderResource;
  /** What must be there before anything is protected from or to it. */
  readonly ready?: readonly pulumi.Resource[];
}

export class Site extends pulumi.ComponentResource {
  readonly site: string;
  readonly agent: string;
  readonly connection: Inputs<SiteConnection> | undefined;
  readonly hypervisor: string | undefined;
  readonly failureDomain: string | undefined;
  readonly provider: pulumi.ProviderResource | undefined;
  readonly ready: readonly pulumi.Resource[];

  constructor(name: string, args: SiteArgs, options?: pulumi.ComponentResourceOptions) {
    super('tidemark:index:Site', name, {}, options);
    this.site = args.site;
    this.agent = args.agent;
    this.connection = args.connection;
    this.hypervisor = args.hypervisor;
    this.failureDomain = args.failureDomain;
    this.provider = args.provider;
    this.ready = args.ready ?? [];
    this.registerOutputs({ site: args.site, agent: args.agent });
  }

  /** Options of a resource that asks the agent of this site. */
  childOptions(parent: pulumi.Resource): pulumi.CustomResourceOptions {
    return { parent, ...(this.provider === undefined ? {} : { provider: this.provider }) };
  }
}
