/** One route of the control API. */
import type { z } from 'zod';
import type { Role } from '../service/agent-schemas.js';
import type { AgentService, Caller } from '../service/service.js';

export interface RouteContext<Params, Query, Body> {
  readonly service: AgentService;
  readonly caller: Caller;
  readonly params: Params;
  readonly query: Query;
  readonly body: Body;
  /** Aborts when the client went away or the server stops. */
  readonly signal: AbortSignal;
}

interface Parts<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType, R extends z.ZodType> {
  /** Stable; the method of the client has the same name. */
  readonly id: string;
  readonly method: 'GET' | 'PUT' | 'POST' | 'DELETE';
  /** `{name}` is a parameter. */
  readonly path: string;
  readonly summary: string;
  /** Who may. */
  readonly roles: readonly Role[];
  readonly params?: P;
  readonly query?: Q;
  readonly body?: B;
  /** Undefined: 204 without a body. */
  readonly reply?: R;
  readonly handle: (context: RouteContext<z.infer<P>, z.infer<Q>, z.infer<B>>) => Promise<z.input<R> | void>;
}

export type Route = Parts<z.ZodObject, z.ZodObject, z.ZodType, z.ZodType>;

/** Ties the types of schemas and handler together; the table only knows that they fit. */
export function route<P extends z.ZodObject, Q extends z.ZodObject, B extends z.ZodType, R extends z.ZodType>(
  parts: Parts<P, Q, B, R>,
): Route {
  return parts as unknown as Route;
}

export const everyone: readonly Role[] = ['operator', 'peer', 'reader'];
export const readers: readonly Role[] = ['operator', 'reader'];
export const peersToo: readonly Role[] = ['operator', 'peer'];
export const operators: readonly Role[] = ['operator'];

/** The longest that a waiting request waits, milliseconds. */
export const waitMsMax = 30_000;

/** Aborts after `seconds`, or with the request. */
export function waitSignal(seconds: number, signal: AbortSignal): AbortSignal {
  return AbortSignal.any([signal, AbortSignal.timeout(Math.min(seconds * 1000, waitMsMax))]);
}
