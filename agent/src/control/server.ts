/**
 * The control API over HTTPS: TLS 1.3, both sides with certificates, the role by the CN of the client's. Everything from
 * a client is checked here once; what the service gets is what its types say. Bounds: {@link apiLimits}.
 */
import type { Server } from 'node:https';
import type { AddressInfo } from 'node:net';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { TidemarkError } from '../core/errors.js';
import { toApiError } from '../service/error-schema.js';
import type { Role } from '../service/agent-schemas.js';
import { parseAddress } from '../service/scalars.js';
import type { AgentService } from '../service/service.js';
import { Admission } from './admission.js';
import { authenticate, requireRole, type RoleLookup } from './access.js';
import { check, fromFramework, HttpRefusal } from './checks.js';
import { httpStatus } from './http-errors.js';
import type { Logger } from './logger.js';
import { createMetrics, type ApiMetrics } from './metrics.js';
import { openApiDocument } from './openapi.js';
import type { Route } from './route.js';
import { plainRoutes, routes } from './routes.js';
import { EventStreams } from './sse.js';

export const apiLimits = {
  bodyBytesMax: 1024 * 1024,
  connectionCountMax: 256,
  /** For a client to send its whole request. */
  requestMs: 15_000,
  /** For an answer; waiting requests end by themselves before it. */
  answerMs: 60_000,
  /** Waiting requests of one client and event streams hold connections; these keep them bounded. */
  inFlightCountMax: 128,
  /** Of one certificate name: a reader's waiting requests must not keep the operator out. */
  inFlightCallerMax: 32,
  closeMs: 5_000,
};
export type ApiLimits = Readonly<typeof apiLimits>;

export interface ApiOptions {
  readonly service: AgentService;
  /** host:port; port 0 takes any free one. */
  readonly address: string;
  readonly tls: TlsText;
  readonly roleOf: RoleLookup;
  readonly log: Logger;
  readonly limits?: Partial<ApiLimits>;
}

/** PEM texts. */
export interface TlsText {
  readonly certificate: string;
  readonly key: string;
  readonly authority: string;
}

export interface ApiServer {
  /** host:port that it listens on. */
  readonly address: string;
  /** Others may register their own metrics here. */
  readonly metrics: ApiMetrics;
  /** New connections use the new certificates. */
  setTls(tls: TlsText): void;
  /** Ends waiting requests and streams, then the server; bounded by `closeMs`. */
  close(): Promise<void>;
}

/** Listens. Throws what `listen` throws (EADDRINUSE …). */
export async function startApiServer(options: ApiOptions): Promise<ApiServer> {
  const limits = { ...apiLimits, ...options.limits };
  const stop = new AbortController();
  const metrics = createMetrics(options.service);
  const handling = new Handling(options, limits, metrics, stop.signal);
  const app = fastify({
    https: { ...secureContext(options.tls), requestCert: true, rejectUnauthorized: true, minVersion: 'TLSv1.3' },
    bodyLimit: limits.bodyBytesMax,
    requestTimeout: limits.requestMs,
    keepAliveTimeout: 30_000,
    routerOptions: { maxParamLength: 256 },
    logger: false,
    // What the router refuses before any handler (a broken escape, a parameter that is too long).
    frameworkErrors: (error, request, reply) => void handling.fail(error, request as never, reply as never),
    forceCloseConnections: 'idle',
  }) as unknown as FastifyInstance;
  const server = app.server as unknown as Server;
  server.maxConnections = limits.connectionCountMax;

  for (const route of routes)
    app.route({
      method: route.method,
      url: route.path.replaceAll(/\{(\w+)\}/g, ':$1'),
      handler: (request, reply) => handling.answer(route, request, reply),
    });
  handling.addPlainRoutes(app);
  app.setNotFoundHandler((request) => {
    throw new TidemarkError('route-unknown', `${request.method} ${request.url.slice(0, 200)} is not in this API`);
  });
  app.setErrorHandler((error, request, reply) => handling.fail(error, request, reply));
  app.addHook('onRequest', (request, _reply, done) => {
    request.raw.socket.setNoDelay(true);
    done();
  });

  const { host, port } = parseAddress(options.address)!;
  await app.listen({ host, port });
  const bound = server.address() as AddressInfo;
  return {
    address: `${bound.family === 'IPv6' ? `[${bound.address}]` : bound.address}:${bound.port}`,
    metrics,
    setTls: (tls) => server.setSecureContext(secureContext(tls)),
    close: async () => {
      stop.abort(new TidemarkError('shutting-down', 'the agent is stopping'));
      const force = setTimeout(() => server.closeAllConnections(), limits.closeMs);
      await app.close();
      clearTimeout(force);
    },
  };
}

function secureContext(tls: TlsText): { cert: string; key: string; ca: string } {
  return { cert: tls.certificate, key: tls.key, ca: tls.authority };
}

/** What happens between a request and its answer. */
class Handling {
  readonly #options: ApiOptions;
  readonly #limits: ApiLimits;
  readonly #metrics: ApiMetrics;
  readonly #stop: AbortSignal;
  readonly #streams: EventStreams;
  readonly #admission: Admission;

  constructor(options: ApiOptions, limits: ApiLimits, metrics: ApiMetrics, stop: AbortSignal) {
    this.#options = options;
    this.#limits = limits;
    this.#metrics = metrics;
    this.#stop = stop;
    this.#admission = new Admission(limits.inFlightCountMax, limits.inFlightCallerMax);
    this.#streams = new EventStreams(options.service, stop);
  }

  async answer(route: Route, request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
    const startedMs = performance.now();
    const caller = authenticate(request, this.#options.roleOf);
    requireRole(caller, route.roles);
    if (this.#stop.aborted) throw this.#stop.reason as Error;
    const params = check(route.params, request.params);
    const query = check(route.query, request.query);
    const body = check(route.body, request.body);
    const gone = new AbortController();
    reply.raw.on('close', () => gone.abort());

    const leave = this.#admission.enter(caller.name);
    let outcome = 'failed';
    try {
      const context = {
        service: this.#options.service,
        caller,
        params,
        query,
        body,
        signal: AbortSignal.any([gone.signal, this.#stop]),
      };
      const result = await this.#bounded(route.handle(context as never));
      outcome = 'done';
      reply.code(route.reply === undefined ? 204 : 200);
      return route.reply === undefined ? undefined : result;
    } finally {
      leave();
      this.#metrics.requestSeconds.observe({ route: route.id }, (performance.now() - startedMs) / 1000);
      if (route.method !== 'GET')
        this.#options.log.info(
          { event: 'api-change', route: route.id, caller: caller.name, params, outcome },
          'API change',
        );
    }
  }

  async #bounded<Result>(work: Promise<Result>): Promise<Result> {
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(
        () => reject(new TidemarkError('timed-out', `no answer within ${this.#limits.answerMs / 1000} s`)),
        this.#limits.answerMs,
      );
    });
    try {
      return await Promise.race([work, limit]);
    } finally {
      clearTimeout(timer);
    }
  }

  fail(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
    const refusal = error instanceof HttpRefusal ? error : fromFramework(error);
    const cause = refusal?.error ?? error;
    const body = toApiError(cause);
    if (body.code === 'internal')
      this.#options.log.error(
        { event: 'api-failure', err: error, url: request.url.slice(0, 200) },
        'request failed unexpectedly',
      );
    const status = refusal?.status ?? httpStatus(cause instanceof TidemarkError ? cause.code : 'internal');
    this.#metrics.failures.inc({ code: body.code });
    return reply.code(status).send(refusal?.issues ? { ...body, issues: refusal.issues } : body);
  }

  /** See plainRoutes in routes.ts. */
  addPlainRoutes(app: FastifyInstance): void {
    const document = JSON.stringify(openApiDocument());
    const handlers: Record<string, (request: FastifyRequest, reply: FastifyReply) => Promise<unknown>> = {
      '/livez': async () => 'ok\n',
      '/readyz': async (_request, reply) => {
        const { ready, checks } = await this.#options.service.health();
        reply.code(ready ? 200 : 503);
        return `${ready ? 'ready' : 'not ready'}\n${checks.map(({ name, ok, message }) => `${ok ? 'ok' : 'FAILED'} ${name}: ${message}\n`).join('')}`;
      },
      '/metrics': async () => this.#metrics.text(),
      '/openapi.json': async () => document,
      '/v1/events/stream': (request, reply) =>
        this.#streams.serve(authenticate(request, this.#options.roleOf), request, reply),
    };
    for (const { path, contentType, roles } of plainRoutes)
      app.get(path, async (request, reply) => {
        requireRole(authenticate(request, this.#options.roleOf), roles as readonly Role[]);
        if (path !== '/v1/events/stream') reply.type(`${contentType}; charset=utf-8`);
        return handlers[path]!(request, reply);
      });
  }
}
