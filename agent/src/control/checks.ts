/** Checks what a client sent by its schema; failures name every property that is wrong. */
import type { z } from 'zod';
import { TidemarkError } from '../core/errors.js';
import { flatten, propertyPath } from '../service/issues.js';

export interface Issue {
  readonly path: string;
  readonly message: string;
}

/** A failure with an HTTP status of its own, or with a list of wrong properties. */
export class HttpRefusal extends Error {
  readonly error: TidemarkError;
  readonly status: number;
  readonly issues: readonly Issue[] | undefined;

  constructor(error: TidemarkError, status: number, issues?: readonly Issue[]) {
    super(error.message, { cause: error });
    this.error = error;
    this.status = status;
    this.issues = issues;
  }
}

/** Issues of one request that are listed at most. */
const issueCountMax = 50;

/** The checked value. Without a schema nothing may be sent, and nothing is passed on. */
export function check(schema: z.ZodType | undefined, value: unknown): unknown {
  if (schema === undefined) return undefined;
  const result = schema.safeParse(value ?? {});
  if (result.success) return result.data;
  const issues = result.error.issues
    .flatMap((issue) => flatten(issue))
    .slice(0, issueCountMax)
    .map(({ path, message }) => ({ path: propertyPath(path), message }));
  const first = issues[0]!;
  throw new HttpRefusal(
    new TidemarkError('request-invalid', `${first.path}: ${first.message}`, { path: first.path }),
    400,
    issues,
  );
}

/** Fastify's own refusals (broken JSON, too large, wrong content type) in our form; undefined: not one of them. */
export function fromFramework(error: unknown): HttpRefusal | undefined {
  if (error instanceof TidemarkError || !(error instanceof Error)) return undefined;
  const { statusCode } = error as { statusCode?: unknown };
  if (typeof statusCode !== 'number' || statusCode < 400 || statusCode > 499) return undefined;
  return new HttpRefusal(new TidemarkError('request-invalid', error.message), statusCode);
}
