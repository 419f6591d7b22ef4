/** A site: where VMs run or journals live, and how its agent is reached. */
import * as pulumi from '@pulumi/pulumi';
import type { SiteConnection } from './resources.js';

export interface SiteArgs {
  /** Name of the site, as its agent's configuration says. */
  readonly site: string;
  /** Name of its agent: the CN of the agent's certificate. */
  readonly agent: string;
  /** API of the agent. Needed where journals live; a source may be reached through its target alone. */
  readonly connection?: SiteConnection;
  /** Hypervisor of the agent's configuration on which VMs come back. */
  readonly hypervisor?: string;
}

export class Site extends pulumi.ComponentResource {
  readonly site: string;
  readonly agent: string;
  readonly connection: SiteConnection | undefined;
  readonly hypervisor: string | undefined;

  constructor(name: string, args: SiteArgs, options?: pulumi.ComponentResourceOptions) {
    super('tidemark:index:Site', name, {}, options);
    this.site = args.site;
    this.agent = args.agent;
    this.connection = args.connection;
    this.hypervisor = args.hypervisor;
    this.registerOutputs({ site: args.site, agent: args.agent });
  }
}
