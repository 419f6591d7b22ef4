/** The VMs of a group as its transitions see them; recovery/ implements it over a hypervisor. */
import type { DrillChecks } from '../service/recovery-spec.js';
import type { Checkpoint } from './manifest-records.js';
import type { OperationPlan, OperationResult, OperationStep, StepContext } from './operations.js';

/** What of a group a drill boots and checks. */
export interface DrillScope {
  /** Names of VMs; undefined: all of the settings. */
  readonly vms?: readonly string[] | undefined;
  /** Besides the readiness of the settings. */
  readonly checks?: DrillChecks | undefined;
}

export interface GroupMachines {
  /** True when the settings say how VMs come back; otherwise an operation is about disks alone. */
  readonly enabled: boolean;
  /** Operations of their own: drills. */
  readonly plans: ReadonlyMap<string, OperationPlan>;
  /** Checks, before anything changes, that every VM can come back from the checkpoint. */
  checkFailover(checkpoint: Checkpoint): Promise<OperationResult>;
  /** Checks, before anything changes, that a drill can be run, in networks that lead nowhere. */
  checkDrill(checkpoint: Checkpoint, asked: DrillScope): Promise<OperationResult>;
  /** Checks that the recovered VMs can be made permanent: state, space. */
  checkCommit(view: string): Promise<OperationResult>;
  /** Behind the production view. */
  readonly failoverSteps: readonly OperationStep[];
  /** Before the view is set aside: no VM runs on it any more. */
  readonly rollbackSteps: readonly OperationStep[];
  /** Before the point of no return: every disk mirrored to a file, every write on both sides. */
  readonly commitSteps: readonly OperationStep[];
  /** Behind it: every disk of every VM runs on its file, proven. */
  settle(context: StepContext): Promise<OperationResult>;
  /** Begins to look after what was recovered. */
  start(): void;
  stop(): Promise<void>;
}
