/** Events as server-sent events: `id: BOOT/NUMBER`, `event: CODE`, `data: JSON`. A slow reader is waited for. */
import { once } from 'node:events';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { AgentService, Caller } from '../service/service.js';
import { Admission } from './admission.js';

export const streamCountMax = 32;
/** Of one certificate name. */
const callerStreamCountMax = 8;
/** Events in one turn, and the pause between turns: together the rate of a stream is bounded. */
const batchCountMax = 100;
const pauseMs = 100;
const heartbeatMs = 15_000;

export class EventStreams {
  readonly #service: AgentService;
  readonly #stop: AbortSignal;
  readonly #admission = new Admission(streamCountMax, callerStreamCountMax);

  constructor(service: AgentService, stop: AbortSignal) {
    this.#service = service;
    this.#stop = stop;
  }

  /** Answers until the client goes or the server stops. `overloaded` above `streamCountMax`. */
  async serve(caller: Caller, request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const leave = this.#admission.enter(caller.name);
    const gone = new AbortController();
    reply.raw.on('close', () => gone.abort());
    const signal = AbortSignal.any([gone.signal, this.#stop]);
    const position = parsePosition(request.headers['last-event-id']);

    try {
      reply.hijack();
      reply.raw.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
      reply.raw.flushHeaders();
      await this.#run(reply, position, signal);
    } catch {
      // The answer has begun: the end of the stream is all that can be said.
    } finally {
      leave();
      reply.raw.end();
    }
  }

  async #run(reply: FastifyReply, position: { boot?: string; after: number }, signal: AbortSignal): Promise<void> {
    let query = { ...position, limit: batchCountMax, waitSeconds: 0 };
    while (!signal.aborted) {
      const page = await this.#service.events(query);
      if (page.lost) await write(reply, `event: lost\ndata: {}\n\n`, signal);
      for (const event of page.events)
        await write(
          reply,
          `id: ${page.boot}/${event.id}\nevent: ${event.code}\ndata: ${JSON.stringify(event)}\n\n`,
          signal,
        );
      query = { ...query, boot: page.boot, after: page.next };
      if (page.events.length === 0) await write(reply, ': alive\n\n', signal);
      else
        await this.#service.waitEvents(
          Number.MAX_SAFE_INTEGER,
          AbortSignal.any([signal, AbortSignal.timeout(pauseMs)]),
        );
      await this.#service.waitEvents(page.next, AbortSignal.any([signal, AbortSignal.timeout(heartbeatMs)]));
    }
  }
}

async function write(reply: FastifyReply, text: string, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  if (!reply.raw.write(text)) await once(reply.raw, 'drain', { signal });
}

/** `BOOT/NUMBER`; anything else is the start. */
function parsePosition(header: string | string[] | undefined): { boot?: string; after: number } {
  const match = typeof header === 'string' ? /^([A-Za-z0-9_-]{1,64})\/(\d{1,15})$/.exec(header) : null;
  return match === null ? { after: 0 } : { boot: match[1]!, after: Number(match[2]) };
}
