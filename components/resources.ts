/** Resources and functions of the provider for TypeScript programs; types and checks come from the same schemas. */
import * as pulumi from '@pulumi/pulumi';
import type { z } from 'zod';
import type { protectionGroupSchema, recoveryDrillSchema } from './provider/inputs.js';

/** Every part of it may be an output of another resource. */
export type Inputs<T> =
  | pulumi.Input<T>
  | (T extends readonly (infer Item)[]
      ? readonly Inputs<Item>[]
      : T extends object
        ? { readonly [Key in keyof T]: Inputs<T[Key]> }
        : never);

/** Its properties are plain, their values may be outputs. */
export type Args<T> = { readonly [Key in keyof T]: Inputs<T[Key]> };

export type ProtectionGroupArgs = Args<z.input<typeof protectionGroupSchema>>;
export type RecoveryDrillArgs = Args<z.input<typeof recoveryDrillSchema>>;
/** How an agent is reached. */
export type SiteConnection = z.input<typeof protectionGroupSchema>['target'];
export type GroupPolicy = z.input<typeof protectionGroupSchema>['policy'];
export type RecoveryRequest = NonNullable<z.input<typeof protectionGroupSchema>['recovery']>;

/** A consistency group protected at a target site. Never replaced: it holds journal and replica. */
export class ProtectionGroup extends pulumi.CustomResource {
  /** `protecting`, `failed-over`, `committing`, `committed`, … */
  declare readonly state: pulumi.Output<string>;
  /** Site where the application runs; feed DNS and load balancers with it. */
  declare readonly activeSite: pulumi.Output<string>;
  /** Addresses of each VM where it runs now, as far as they are declared. */
  declare readonly addresses: pulumi.Output<Record<string, string[]>>;
  /** Grows with every change of direction. */
  declare readonly epoch: pulumi.Output<number>;
  declare readonly policyRevision: pulumi.Output<number>;
  /** Id of the newest transition, and who asked for it. */
  declare readonly lastOperation: pulumi.Output<string>;
  declare readonly drivenBy: pulumi.Output<string>;
  /** Checkpoint that it took. */
  declare readonly lastCheckpoint: pulumi.Output<string>;
  /** The agent could not be asked; the rest is as it was. */
  declare readonly stale: pulumi.Output<boolean>;

  constructor(name: string, args: ProtectionGroupArgs, options?: pulumi.CustomResourceOptions) {
    super(
      'tidemark:index:ProtectionGroup',
      name,
      {
        ...args,
        ...{ state: undefined, stateSite: undefined, activeSite: undefined, addresses: undefined, epoch: undefined },
        ...{ policyRevision: undefined, owner: undefined, lastOperation: undefined, drivenBy: undefined },
        ...{ lastCheckpoint: undefined, requests: undefined, stale: undefined },
      },
      options,
    );
  }
}

/** A test failover in an isolated network, run once for a request; the only way to drill. */
export class RecoveryDrill extends pulumi.CustomResource {
  /** `passed`, `failed`, `running` or `cancelled`. */
  declare readonly result: pulumi.Output<string>;
  /** The checkpoint that was booted. */
  declare readonly checkpointUsed: pulumi.Output<string>;
  /** Operation id at the agent, with each check and its time. */
  declare readonly evidence: pulumi.Output<string>;

  constructor(name: string, args: RecoveryDrillArgs, options?: pulumi.CustomResourceOptions) {
    const made = {
      result: undefined,
      checkpointUsed: undefined,
      evidence: undefined,
      drivenBy: undefined,
      stale: undefined,
    };
    super('tidemark:index:RecoveryDrill', name, { ...args, ...made }, options);
  }
}
