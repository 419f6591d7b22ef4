/**
 * Which agent the CLI talks to, and as whom: flags, then TIDEMARK_* variables, then the context file
 * (~/.config/tidemark/context.yaml, or --context). Paths in the file are relative to it.
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { z } from 'zod';
import { AgentClient } from '../client/agent-client.js';
import { parseYaml } from '../config/load.js';
import { TidemarkError } from '../core/errors.js';
import type { Terminal } from './terminal.js';

export const contextFileSchema = z.strictObject({
  api: z.string().optional().describe('https://host:port'),
  certificate: z.string().optional().describe('PEM file'),
  key: z.string().optional().describe('PEM file'),
  authority: z.string().optional().describe('PEM file'),
  serverName: z.string().optional().describe("Name in the agent's certificate, when it is not the host of the URL"),
});
type Context = z.infer<typeof contextFileSchema>;
const names = ['api', 'certificate', 'key', 'authority', 'serverName'] as const;

/** An agent, and files of who asks. */
export interface AgentAddress {
  readonly api: string;
  readonly certificate: string;
  readonly key: string;
  readonly authority: string;
  readonly serverName?: string;
}

/** Global options of the command line. */
export type GlobalOptions = Context & { readonly context?: string; readonly json?: boolean };

/** Throws `request-invalid` naming what is missing. */
export function resolveContext(options: GlobalOptions, env: Terminal['env']): AgentAddress {
  const file = options.context ?? env['TIDEMARK_CONTEXT'];
  const fallback = join(env['XDG_CONFIG_HOME'] ?? join(env['HOME'] ?? '/', '.config'), 'tidemark', 'context.yaml');
  const fromFile = file !== undefined ? readContext(file) : existsSync(fallback) ? readContext(fallback) : {};
  const pick = (name: (typeof names)[number]): string | undefined =>
    options[name] ?? env[variableOf(name)] ?? fromFile[name];

  const context: Context = Object.fromEntries(
    names.map((name) => [name, pick(name)]).filter(([, value]) => value !== undefined),
  );
  const missing = (['api', 'certificate', 'key', 'authority'] as const).filter((name) => context[name] === undefined);
  if (missing.length > 0)
    throw new TidemarkError(
      'request-invalid',
      `no agent named: ${missing.map((name) => `--${name} (or ${variableOf(name)})`).join(', ')} missing, and not in ${file ?? fallback}`,
      { path: missing[0]! },
    );
  return context as AgentAddress;
}

export function connect(options: GlobalOptions, env: Terminal['env']): AgentClient {
  const { api, certificate, key, authority, serverName } = resolveContext(options, env);
  const url = api.includes('://') ? api : `https://${api}`;
  return new AgentClient({
    url,
    certificate: pem(certificate),
    key: pem(key),
    authority: pem(authority),
    ...(serverName === undefined ? {} : { serverName }),
  });
}

/** `serverName` → `TIDEMARK_SERVER_NAME` */
function variableOf(name: string): string {
  return `TIDEMARK_${name.replaceAll(/([A-Z])/g, '_$1').toUpperCase()}`;
}

function readContext(file: string): Context {
  const context = parseYaml(pem(file), file, contextFileSchema);
  for (const name of ['certificate', 'key', 'authority'] as const)
    if (context[name] !== undefined) context[name] = resolve(dirname(resolve(file)), context[name]);
  return context;
}

function pem(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new TidemarkError('request-invalid', `cannot read ${path}: ${(cause as Error).message}`, { path, cause });
  }
}
