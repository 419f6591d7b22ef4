/** What a kind of resource does; the server gives it plain values and keeps the protocol away from it. */
import type { z } from 'zod';
import type { Failure } from './check.js';
import type { Teller } from './engine.js';
import type { ChangeKind } from './detailed-diff.js';
import type { Sites } from './sites.js';
import type { Properties } from './values.js';

export interface Call {
  readonly urn: string;
  readonly sites: Sites;
  readonly tell: Teller;
  /** Nothing may be changed; what cannot be predicted is unknown. */
  readonly preview: boolean;
  /** Aborts on cancel, and when the time that the program allows is over. */
  readonly signal: AbortSignal;
}

export interface State {
  readonly id: string;
  readonly outputs: Properties;
}

/** Something was made or changed before it failed: the state is saved, the update fails. */
export class PartialFailure extends Error {
  constructor(
    readonly state: State,
    reason: string,
  ) {
    super(reason);
  }
}

export interface ResourceKind {
  /** `tidemark:index:NAME` */
  readonly token: string;
  readonly description: string;
  readonly schema: z.ZodObject;
  /** Properties besides the inputs. */
  readonly outputs: z.ZodObject;
  /** What the schema alone cannot say; `before` are the inputs of the last update. */
  check?(inputs: Properties, before: Properties | undefined): Failure[];
  /** Changes that the inputs do not show. */
  changes?(urn: string, outputs: Properties): ReadonlyMap<string, ChangeKind>;
  /** `existed`: the engine knows a resource of this URN, so this create would replace it. */
  create(inputs: Properties, call: Call & { readonly existed: boolean }): Promise<State>;
  update(id: string, before: Properties, inputs: Properties, call: Call): Promise<Properties>;
  /** Undefined: it is gone. Without `inputs` it is an import. */
  read(
    id: string,
    before: Properties,
    inputs: Properties | undefined,
    call: Call,
  ): Promise<{ readonly state: State; readonly inputs: Properties } | undefined>;
  delete(id: string, before: Properties, call: Call): Promise<void>;
}
