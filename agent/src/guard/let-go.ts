/**
 * A let-go record: the guard writes one when it ended a hung agent, the agent reads them when it starts.
 *
 * File `let-go-TIME-PID.json` in the guard's directory, JSON, written whole (`.partial`, fdatasync, rename, fsync of the
 * directory). Valid if and only if it is JSON of the schema; one that is not, or a `.partial`, counts for nothing.
 */
import { z } from 'zod';
import { isTidemarkError } from '../core/errors.js';
import type { Storage } from '../core/storage.js';
import { readWhole, writeWhole } from '../core/whole-file.js';

export const letGoSchema = z.object({
  version: z.literal(1),
  /** Host's clock, milliseconds since the Unix epoch. */
  wallMs: z.number().nonnegative(),
  /** `silent`: the agent's thread did not report; `unanswered`: it reported a write that it could not answer. */
  reason: z.enum(['silent', 'unanswered']),
  ageMs: z.number().nonnegative(),
  sinceReportMs: z.number().nonnegative(),
  reportedMs: z.number().nonnegative(),
  agentPid: z.number().int(),
  /** Whose disks were let go. */
  groups: z.array(z.string()).max(4096),
  connectionCount: z.number().int().nonnegative(),
});
export type LetGo = z.infer<typeof letGoSchema>;

const bytesMax = 1024 * 1024;
/** Older ones are removed. */
const keptCount = 100;

/** Durable when it resolves. */
export async function writeLetGo(storage: Storage, directory: string, letGo: LetGo): Promise<void> {
  await storage.makeDirectory(directory);
  const name = `let-go-${String(Math.round(letGo.wallMs)).padStart(15, '0')}-${letGo.agentPid}.json`;
  await writeWhole(storage, directory, name, `${JSON.stringify(letGo)}\n`);
}

/** Oldest first. Removes all but the newest 100. */
export async function readLetGoes(storage: Storage, directory: string): Promise<LetGo[]> {
  const names = (await storage.list(directory)).filter((name) => /^let-go-\d+-\d+\.json$/.test(name));
  for (const name of names.splice(0, Math.max(0, names.length - keptCount)))
    await storage.remove(`${directory}/${name}`);
  const found: LetGo[] = [];
  for (const name of names) {
    const letGo = await readLetGo(storage, `${directory}/${name}`);
    if (letGo !== undefined) found.push(letGo);
  }
  return found;
}

async function readLetGo(storage: Storage, path: string): Promise<LetGo | undefined> {
  try {
    return letGoSchema.parse(JSON.parse((await readWhole(storage, path, bytesMax)) ?? ''));
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof z.ZodError) return undefined;
    if (isTidemarkError(error, 'storage-not-found')) return undefined;
    throw error;
  }
}
