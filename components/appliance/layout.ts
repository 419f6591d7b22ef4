/**
 * What an appliance is on its host, all below one directory:
 *
 *   appliance.json            who it is and which resource it belongs to; without it nothing here is touched
 *   bundles/SHA256/tidemark   executables by their content
 *   generations/ID/           one executable (a link), one configuration, its certificates: what runs together
 *   current, previous         links to generations; `current` is replaced by one rename
 *   service                   the script that keeps the agent running, where there is no systemd
 *   nbd/                      sockets of exports and views
 *   data/                     journals, replicas, scratch; never removed with the appliance
 */
import { createHash } from 'node:crypto';
import { z } from 'zod';
import type { AgentConfigInput } from '../../agent/src/config/schema.js';

/** Sockets lie below it, and the path of a unix socket has at most 107 bytes. */
export const directorySchema = z
  .string()
  .regex(/^(\/[A-Za-z0-9._-]+)+$/, 'an absolute path of A-Z a-z 0-9 . _ - and /')
  .max(60)
  .refine((path) => !path.split('/').some((part) => part === '.' || part === '..'), 'a path without . and ..');

export const markerSchema = z.object({
  version: z.literal(1),
  /** URN and token of its create. */
  owner: z.string(),
  agent: z.string(),
});
export type Marker = z.infer<typeof markerSchema>;

export const paths = (directory: string) =>
  ({
    marker: `${directory}/appliance.json`,
    bundle: (sha256: string) => `${directory}/bundles/${sha256}/tidemark`,
    generation: (id: string) => `${directory}/generations/${id}`,
    current: `${directory}/current`,
    previous: `${directory}/previous`,
    service: `${directory}/service`,
    sockets: `${directory}/nbd`,
    data: `${directory}/data`,
    log: `${directory}/agent.log`,
  }) as const;

/** What a service of the host needs to know. */
export interface ServicePlace {
  readonly directory: string;
  readonly dataDirectory: string;
  readonly agent: string;
  /** A file system that must be mounted before the agent starts; empty: none. */
  readonly mountPoint: string;
}

/** What runs together: changed as a whole, and back as a whole. */
export interface Generation {
  readonly bundleSha256: string;
  readonly config: AgentConfigInput;
  /** PEM texts. */
  readonly certificate: string;
  readonly key: string;
  readonly authority: string;
}

export function generationId({ bundleSha256, config, certificate, key, authority }: Generation): string {
  const all = JSON.stringify([bundleSha256, config, certificate, key, authority]);
  return createHash('sha256').update(all).digest('hex').slice(0, 32);
}
