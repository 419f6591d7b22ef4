/** The resources that appliances are made of, for TypeScript programs. What they are is in the provider's schemas. */
import * as pulumi from '@pulumi/pulumi';
import type { z } from 'zod';
import type {
  agentEnrolmentSchema,
  applianceSchema,
  certificateAuthoritySchema,
  sitePeeringSchema,
  sourceGroupResourceSchema,
  targetJournalSchema,
} from './provider/appliance-inputs.js';
import type { hostSchema } from './appliance/open-host.js';
import type { Args } from './resources.js';

type SshHost = Extract<z.input<typeof hostSchema>, { kind: 'ssh' }>;
/** The machine of an appliance; its private key best comes from a secret of the configuration. */
export type HostArgs =
  | Exclude<z.input<typeof hostSchema>, { kind: 'ssh' }>
  | (Omit<SshHost, 'privateKey'> & { readonly privateKey?: pulumi.Input<string> });
export type ApplianceSettings = NonNullable<z.input<typeof applianceSchema>['settings']>;
export type Capture = z.input<typeof sourceGroupResourceSchema>['capture'];

/** The provider, for programs that make the operator's certificate themselves. Connects to nothing by itself. */
export class Provider extends pulumi.ProviderResource {
  constructor(
    name: string,
    args: { readonly certificate: pulumi.Input<string>; key: pulumi.Input<string>; authority: pulumi.Input<string> },
    options?: pulumi.ResourceOptions,
  ) {
    super('tidemark', name, { ...args, key: pulumi.secret(args.key) }, options);
  }
}

/** A certificate authority. Its key is a secret of the state; or keep one of your own, and give it to AgentEnrolment. */
export class CertificateAuthority extends pulumi.CustomResource {
  declare readonly certificate: pulumi.Output<string>;
  /** Secret. */
  declare readonly key: pulumi.Output<string>;
  /** ISO time. */
  declare readonly expires: pulumi.Output<string>;

  constructor(
    name: string,
    args: Args<z.input<typeof certificateAuthoritySchema>> = {},
    options?: pulumi.CustomResourceOptions,
  ) {
    super('tidemark:index:CertificateAuthority', name, { ...args, ...madePair }, withSecretKey(options));
  }
}

/** A certificate for an agent or a person; an update renews it before it ends. */
export class AgentEnrolment extends pulumi.CustomResource {
  declare readonly certificate: pulumi.Output<string>;
  /** Secret. */
  declare readonly key: pulumi.Output<string>;
  /** ISO time. */
  declare readonly expires: pulumi.Output<string>;

  constructor(name: string, args: Args<z.input<typeof agentEnrolmentSchema>>, options?: pulumi.CustomResourceOptions) {
    super('tidemark:index:AgentEnrolment', name, { ...args, ...madePair }, withSecretKey(options));
  }
}

/** Where an appliance keeps journals: a directory, or a block device that is formatted only when nothing is on it. */
export class TargetJournal extends pulumi.CustomResource {
  declare readonly dataDirectory: pulumi.Output<string>;
  declare readonly mountPoint: pulumi.Output<string>;

  constructor(name: string, args: Args<z.input<typeof targetJournalSchema>>, options?: pulumi.CustomResourceOptions) {
    const made = { dataDirectory: undefined, mountPoint: undefined, volume: undefined, owner: undefined };
    super('tidemark:index:TargetJournal', name, { ...args, host: withSecretLogin(args.host), ...made }, options);
  }
}

/** The agent on a host, kept running and upgraded in place. Its journals outlive it. */
export class Appliance extends pulumi.CustomResource {
  /** https://HOST:PORT */
  declare readonly api: pulumi.Output<string>;
  /** HOST:PORT */
  declare readonly stream: pulumi.Output<string>;
  declare readonly version: pulumi.Output<string>;
  declare readonly bundleSha256: pulumi.Output<string>;
  /** The host could not be asked; the rest is as it was. */
  declare readonly stale: pulumi.Output<boolean>;

  constructor(name: string, args: Args<z.input<typeof applianceSchema>>, options?: pulumi.CustomResourceOptions) {
    const made = {
      ...{ api: undefined, stream: undefined, version: undefined, bundleSha256: undefined },
      ...{ owner: undefined, stale: undefined },
    };
    const secrets = { host: withSecretLogin(args.host), key: pulumi.secret(args.key) };
    super('tidemark:index:Appliance', name, { ...args, ...secrets, ...made }, options);
  }
}

/** Two agents that know each other, in both directions. */
export class SitePeering extends pulumi.CustomResource {
  constructor(name: string, args: Args<z.input<typeof sitePeeringSchema>>, options?: pulumi.CustomResourceOptions) {
    super('tidemark:index:SitePeering', name, { ...args, owner: undefined, stale: undefined }, options);
  }
}

/** What is captured at a source. Its VMs stay as they are when it is destroyed. */
export class SourceGroup extends pulumi.CustomResource {
  declare readonly policyRevision: pulumi.Output<number>;
  /** The agent could not be asked; the rest is as it was. */
  declare readonly stale: pulumi.Output<boolean>;

  constructor(
    name: string,
    args: Args<z.input<typeof sourceGroupResourceSchema>>,
    options?: pulumi.CustomResourceOptions,
  ) {
    const made = { policyRevision: undefined, captureDiffers: undefined, owner: undefined, stale: undefined };
    super('tidemark:index:SourceGroup', name, { ...args, ...made }, options);
  }
}

/** The key that a host is logged in with is secret however it was given. */
function withSecretLogin<Host>(host: Host): Host {
  if (typeof host !== 'object' || host === null || pulumi.Output.isInstance(host) || !('privateKey' in host))
    return host;
  return { ...host, privateKey: pulumi.secret(host.privateKey) };
}

const madePair = { certificate: undefined, key: undefined, expires: undefined };

function withSecretKey(options: pulumi.CustomResourceOptions = {}): pulumi.CustomResourceOptions {
  return { ...options, additionalSecretOutputs: ['key', ...(options.additionalSecretOutputs ?? [])] };
}
