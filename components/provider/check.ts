/** Checks inputs by their schema: every wrong property by its path, what is still unknown left out. */
import type { z } from 'zod';
import { flatten, propertyPath } from '../../agent/src/service/issues.js';
import { unknownPaths, type Properties } from './values.js';

export interface Failure {
  readonly property: string;
  readonly reason: string;
}

export function checkInputs(schema: z.ZodType, inputs: Properties): Failure[] {
  const result = schema.safeParse(inputs);
  if (result.success) return [];
  const open = unknownPaths(inputs);
  return result.error.issues
    .flatMap((issue) => flatten(issue))
    .filter(({ path }) => !open.some((other) => startsWith(path, other) || startsWith(other, path)))
    .map(({ path, message }) => ({ property: propertyPath(path), reason: message }));
}

function startsWith(path: readonly PropertyKey[], prefix: readonly PropertyKey[]): boolean {
  return prefix.every((key, index) => path[index] === key);
}

/** True when nothing in it is unknown. */
export function isKnown(inputs: unknown): boolean {
  return unknownPaths(inputs).length === 0;
}
