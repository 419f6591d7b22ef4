/** Asks source agents to stop and start VMs. A source agent that is being restarted is waited for, for a time. */
import { z } from 'zod';
import { sleep, type Clock } from '../core/clock.js';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import { fromApiError } from '../service/error-schema.js';
import type { Operation, OperationRequest } from '../service/operation-schemas.js';
import type { Reversal } from '../target/reversal.js';
import type { SourcePeers } from '../target/source-peers.js';
import type { PeerClients } from './peer-clients.js';

/** A source agent that cannot be reached for so long in the middle is given up. */
const awayMs = 60_000;
const againMs = 500;
/** An agent that is being restarted is back within this time. */
const restartMs = 15_000;
/** Besides the time-outs that the request itself names. */
const spareMs = 180_000;
/** It copies disks when they are not raw. */
const takeOverMs = 24 * 3_600_000;

const stopSchema = z.object({
  checkpoint: z.string().nullable(),
  incarnation: z.number().int(),
  sequence: z.number().int(),
  stopped: z.array(z.string()),
});

/** What a target asks of its source agents; `takeOver`: of the site that it is reversed to. */
export type AskedPeers = SourcePeers & Pick<Reversal, 'takeOver'>;

export function sourcePeers(peers: PeerClients, clock: Clock): AskedPeers {
  /** Starts, or finds, the operation at the peer and follows it to its end. */
  const run = async (
    peer: string,
    id: string,
    request: OperationRequest,
    limits: { readonly deadlineMs: number; readonly firstMs: number; readonly signal: AbortSignal },
    onChange: (operation: Operation) => void,
  ): Promise<Operation> => {
    const { signal, deadlineMs, firstMs } = limits;
    const untilMs = clock.monotonicMs() + deadlineMs;
    let awayUntilMs = clock.monotonicMs() + firstMs;
    for (;;) {
      signal.throwIfAborted();
      try {
        return await peers.use(peer, async (client) => {
          const started = await client.startOperation(id, request);
          awayUntilMs = clock.monotonicMs() + awayMs;
          if (started.state !== 'running') return started;
          const late = AbortSignal.timeout(Math.max(1, Math.ceil(untilMs - clock.monotonicMs())));
          return await client.waitOperation(
            id,
            (operation) => {
              awayUntilMs = clock.monotonicMs() + awayMs;
              onChange(operation);
            },
            AbortSignal.any([signal, late]),
          );
        });
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        if (clock.monotonicMs() > untilMs)
          throw new TidemarkError('timed-out', `${peer} did not end ${id} within ${Math.round(deadlineMs / 1000)} s.`);
        const away = isTidemarkError(error) && ['peer-unreachable', 'shutting-down'].includes(error.code);
        if (!away || clock.monotonicMs() > awayUntilMs) throw nameOf(peer, error);
        await sleep(clock, againMs, signal);
      }
    }
  };
  const ended = (peer: string, operation: Operation): Operation => {
    if (operation.state === 'succeeded') return operation;
    if (operation.error !== null) throw nameOf(peer, fromApiError(operation.error));
    throw new TidemarkError('source-interrupted', `${peer}: operation ${operation.id} was called off.`);
  };
  return {
    check: (peer) => peers.check(peer),
    stop: async (peer, { id, group, arguments: args, signal }, onProgress) => {
      const deadlineMs = (args.timeoutSeconds * (args.order.length + 1) + args.drainSeconds) * 1000 + spareMs;
      const request = { kind: 'stop-vms', group, arguments: args } as const;
      const operation = await run(peer, id, request, { deadlineMs, firstMs: 0, signal }, ({ progress }) => {
        if (progress !== null) onProgress(progress.doneBytes, progress.totalBytes);
      });
      const parsed = stopSchema.safeParse(ended(peer, operation).result);
      if (parsed.success) return parsed.data;
      throw new TidemarkError('protocol-version', `${peer} ended ${id} with a result that is not understood here.`);
    },
    takeOver: async (peer, { id, group, arguments: args, signal }, onProgress) => {
      const request = { kind: 'take-over', group, arguments: args } as const;
      const limits = { deadlineMs: takeOverMs, firstMs: restartMs, signal };
      const operation = await run(peer, id, request, limits, ({ progress }) => {
        if (progress !== null) onProgress(progress.doneBytes, progress.totalBytes);
      });
      return ended(peer, operation).result ?? {};
    },
    start: async (peer, { id, group, stop, signal }) => {
      const request = { kind: 'start-vms', group, arguments: { stop } } as const;
      const limits = { deadlineMs: spareMs, firstMs: awayMs, signal };
      ended(peer, await run(peer, id, request, limits, () => undefined));
    },
  };
}

/** Says which source it was; a source that ends is no end of this agent. */
function nameOf(peer: string, error: unknown): unknown {
  if (!isTidemarkError(error)) return error;
  const code = error.code === 'shutting-down' ? 'peer-unreachable' : error.code;
  return new TidemarkError(code, `${peer}: ${error.message}`, { cause: error });
}
