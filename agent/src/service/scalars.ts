/** Scalars that every schema of the API and of the configuration shares. */
import { z } from 'zod';

/** Name of a site, agent, group, disk, view or pin. */
export const nameSchema = z
  .string()
  .regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, 'a name has 1 to 63 of a-z 0-9 . _ - and starts with a letter or digit')
  .describe('1 to 63 of a-z 0-9 . _ -, starting with a letter or digit');

/** Chosen by the caller; what makes a repeated request the same request. */
export const operationIdSchema = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$/, 'an operation id has 1 to 128 of A-Z a-z 0-9 . _ : -')
  .describe('Chosen by the caller, 1 to 128 of A-Z a-z 0-9 . _ : -');

/** Of a view or a pin as it is shown: an operation makes some by its own id, which is longer than a name. */
export const shownIdSchema = z.string().min(1).max(256);

/** Identifies a checkpoint in its group; sorts by time. */
export const checkpointIdSchema = z
  .string()
  .regex(/^[0-9a-z]{1,32}$/, 'a checkpoint id has 1 to 32 of 0-9 a-z')
  .describe('Sorts by source time, unique in the group');

export const labelSchema = z
  .string()
  .min(1)
  .max(128)
  .refine((text) => !hasControlCharacter(text), 'a label has no control characters')
  .describe("A person's words, 1 to 128 characters");

/** Milliseconds since the Unix epoch. */
export const timeMsSchema = z
  .number()
  .nonnegative()
  .max(Number.MAX_SAFE_INTEGER)
  .describe('Milliseconds since the Unix epoch');

export const bytesSchema = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
export const countSchema = z.number().int().nonnegative().max(Number.MAX_SAFE_INTEGER);
export const secondsSchema = z.number().nonnegative();

/** `host:port`, `[v6]:port`. */
export const addressSchema = z
  .string()
  .max(261)
  .refine(
    (text) => parseAddress(text) !== undefined,
    'an address is host:port or [ipv6]:port, port 1 to 65535 (0: any free one)',
  )
  .describe('host:port or [ipv6]:port');

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** The parts of `host:port`; undefined when it is none. */
export function parseAddress(text: string): Address | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(text);
  if (match === null) return undefined;
  const port = Number(match[3]);
  return port > 65_535 ? undefined : { host: (match[1] ?? match[2])!, port };
}

function hasControlCharacter(text: string): boolean {
  for (const character of text) {
    const code = character.codePointAt(0)!;
    if (code < 32 || code === 127) return true;
  }
  return false;
}
