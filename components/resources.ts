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
  /** Turned round: it runs at the target and is protected to the source. */
  declare readonly reversed: pulumi.Output<boolean>;
  /** The agent could not be asked; the rest is as it was. */
  declare readonly stale: pulumi.Output<boolean>;

  constructor(name: string, args: ProtectionGroupArgs, options?: pulumi.CustomResourceOptions) {
    super(
      'tidemark:index:ProtectionGroup',
      name,
      {
        ...args,
        // The program reads no others, and each costs.
        ...{ state: undefined, activeSite: undefined, addresses: undefined, epoch: undefined },
        ...{ policyRevision: undefined, lastOperation: undefined, drivenBy: undefined, lastCheckpoint: undefined },
        ...{ reversed: undefined, stale: undefined },
      },
      options,
    );
  }
}

/** What a drill needs of a `ProtectedApplication`. */
export interface DrilledApplication extends pulumi.Resource {
  readonly group: string;
  readonly protection: ProtectionGroup;
  /** How the agents of both sites are reached. */
  readonly connections: { readonly target: Inputs<SiteConnection>; readonly source?: Inputs<SiteConnection> };
}

/** A drill of an application of the same program. */
export type ApplicationDrillArgs = Omit<RecoveryDrillArgs, 'group' | 'target' | 'source'> & {
  readonly application: DrilledApplication;
};

/** A test failover in an isolated network, run once for a request; the only way to drill. */
export class RecoveryDrill extends pulumi.CustomResource {
  /** `passed`, `failed`, `running` or `cancelled`. */
  declare readonly result: pulumi.Output<string>;
  /** The checkpoint that was booted. */
  declare readonly checkpointUsed: pulumi.Output<string>;
  /** Operation id at the agent, with each check and its time. */
  declare readonly evidence: pulumi.Output<string>;
  /** ISO time; empty while it runs. */
  declare readonly finishedAt: pulumi.Output<string>;

  constructor(
    name: string,
    args: RecoveryDrillArgs | ApplicationDrillArgs,
    options: pulumi.CustomResourceOptions = {},
  ) {
    const made = {
      ...{ result: undefined, checkpointUsed: undefined, evidence: undefined, finishedAt: undefined },
      ...{ drivenBy: undefined, stale: undefined },
    };
    if (!('application' in args)) {
      super('tidemark:index:RecoveryDrill', name, { ...args, ...made }, options);
      return;
    }
    const { application, ...rest } = args;
    const { group, connections, protection } = application;
    super(
      'tidemark:index:RecoveryDrill',
      name,
      { ...rest, ...connections, group, ...made },
      // Of what the update has made of the group, not of what it was.
      pulumi.mergeOptions({ parent: application, dependsOn: [protection] }, options),
    );
  }
}
