/** HTTPS with mutual TLS 1.3 and JSON, on Node's own client (Node 20 and later). */
import { Agent, request, type RequestOptions } from 'node:https';
import type { IncomingMessage } from 'node:http';
import { isTidemarkError, TidemarkError } from '../core/errors.js';
import { apiErrorSchema, fromApiError } from '../service/error-schema.js';

export interface ConnectionOptions {
  /** `https://host:port` */
  readonly url: string;
  /** PEM texts. */
  readonly certificate: string;
  readonly key: string;
  readonly authority: string;
  /** Name in the agent's certificate, when it is not the host of the URL. */
  readonly serverName?: string;
  /** In place of the check of the host name: an error refuses the agent's certificate (DER). */
  readonly checkCertificate?: (der: Uint8Array) => Error | undefined;
  /** For connecting and for each answer that does not wait on purpose. Default 30 s. */
  readonly timeoutMs?: number;
}

export interface CallOptions {
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>>;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
  /** Added to the time-out: how long the agent may wait before it answers. */
  readonly extraMs?: number;
}

/** Larger answers are cut off with `protocol-error`. */
const answerBytesMax = 64 * 1024 * 1024;

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #agent: Agent;
  readonly #base: URL;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#base = parseUrl(options.url);
    const { checkCertificate } = options;
    this.#agent = new Agent({
      keepAlive: true,
      maxSockets: 16,
      minVersion: 'TLSv1.3',
      cert: options.certificate,
      key: options.key,
      ca: options.authority,
      ...(options.serverName === undefined ? {} : { servername: options.serverName }),
      ...(checkCertificate && { checkServerIdentity: (_host, { raw }) => checkCertificate(raw) }),
    });
  }

  close(): void {
    this.#agent.destroy();
  }

  /** The parsed JSON; undefined for an empty answer. Throws what the agent refused with, or `peer-unreachable`. */
  async call(method: string, path: string, options: CallOptions = {}): Promise<unknown> {
    const { response, text } = await this.#exchange(method, path, options);
    const status = response.statusCode ?? 0;
    if (status >= 200 && status < 300) return text === '' ? undefined : this.#parse(text);
    const parsed = apiErrorSchema.safeParse(this.#tryParse(text));
    if (parsed.success) throw fromApiError(parsed.data);
    throw new TidemarkError(
      'protocol-error',
      `${this.#base.host} answered ${status}, which is not from a Tidemark agent`,
      { path: this.#options.url },
    );
  }

  /** The answer as it comes, for streams. */
  async open(path: string, options: CallOptions = {}): Promise<IncomingMessage> {
    const response = await this.#send('GET', path, options, true);
    if (response.statusCode === 200) return response;
    const parsed = apiErrorSchema.safeParse(this.#tryParse(await collect(response)));
    throw parsed.success
      ? fromApiError(parsed.data)
      : new TidemarkError('protocol-error', `the agent answered ${response.statusCode}`);
  }

  async #exchange(
    method: string,
    path: string,
    options: CallOptions,
  ): Promise<{ response: IncomingMessage; text: string }> {
    const response = await this.#send(method, path, options, false);
    try {
      return { response, text: await collect(response) };
    } catch (cause) {
      throw this.#unreachable(cause);
    }
  }

  #send(method: string, path: string, options: CallOptions, stream: boolean): Promise<IncomingMessage> {
    const url = new URL(path, this.#base);
    for (const [name, value] of Object.entries(options.query ?? {}))
      if (value !== undefined) url.searchParams.set(name, String(value));
    const body = options.body === undefined ? undefined : Buffer.from(JSON.stringify(options.body));
    const requestOptions: RequestOptions = {
      method,
      agent: this.#agent,
      headers: {
        accept: 'application/json',
        ...(body && { 'content-type': 'application/json', 'content-length': body.length }),
        ...options.headers,
      },
      ...(options.signal && { signal: options.signal }),
    };
    return new Promise((resolve, reject) => {
      const timeoutMs = (this.#options.timeoutMs ?? 30_000) + (options.extraMs ?? 0);
      const outgoing = request(url, requestOptions, (response) => {
        if (stream) clearTimeout(timer);
        else response.once('close', () => clearTimeout(timer));
        resolve(response);
      });
      const timer = setTimeout(() => outgoing.destroy(new Error(`no answer within ${timeoutMs / 1000} s`)), timeoutMs);
      outgoing.once('error', (cause) => {
        clearTimeout(timer);
        reject(options.signal?.aborted ? (options.signal.reason as Error) : this.#unreachable(cause));
      });
      outgoing.end(body);
    });
  }

  /** A refused certificate shows as an alert or a reset after the handshake: say so, it is the common cause. */
  #unreachable(cause: unknown): TidemarkError {
    if (isTidemarkError(cause)) return cause;
    const { code = '', message } = cause as { code?: string; message: string };
    const certificate = /^(ERR_SSL|ERR_TLS|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO_)/.test(code);
    const text = certificate
      ? `TLS with ${this.#base.host} failed: ${message} (check both certificates and the authority)`
      : `cannot reach ${this.#base.host}: ${message}`;
    return new TidemarkError(certificate ? 'peer-refused' : 'peer-unreachable', text, {
      path: this.#options.url,
      cause,
    });
  }

  #parse(text: string): unknown {
    const value = this.#tryParse(text);
    if (value === undefined)
      throw new TidemarkError('protocol-error', `${this.#base.host} answered something that is not JSON`, {
        path: this.#options.url,
      });
    return value;
  }

  #tryParse(text: string): unknown {
    try {
      return JSON.parse(text);
    } catch {
      return undefined;
    }
  }
}

async function collect(response: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > answerBytesMax)
      throw new TidemarkError('protocol-error', `the answer is larger than ${answerBytesMax} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function parseUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== 'https:')
    throw new TidemarkError('request-invalid', `${JSON.stringify(text)} is not an https:// URL`, { path: 'api' });
  return url;
}
