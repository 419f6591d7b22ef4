/** How a failure leaves the agent: as the body of an HTTP error, and inside a failed operation. */
import { z } from 'zod';
import { errorTable, isTidemarkError, TidemarkError, type ErrorCode } from '../core/errors.js';

export const apiErrorSchema = z.object({
  code: z.string().describe('Stable; listed in docs/errors.md'),
  message: z.string().describe('What happened and what it means'),
  hint: z.string().describe('What a person can do'),
  path: z.string().nullable().describe('The property path or file that the failure is about'),
  retry: z.boolean().describe('The same request may succeed later'),
  issues: z
    .array(z.object({ path: z.string(), message: z.string() }))
    .optional()
    .describe('Every property that is wrong, when more than one may be'),
});
export type ApiError = z.infer<typeof apiErrorSchema>;

/** The public form of any thrown value. What is not expected says nothing about our insides. */
export function toApiError(error: unknown): ApiError {
  if (!isTidemarkError(error)) {
    const { hint, retry } = errorTable.internal;
    return { code: 'internal', message: 'The agent failed unexpectedly', hint, path: null, retry };
  }
  return { code: error.code, message: error.message, hint: error.hint, path: error.path ?? null, retry: error.retry };
}

/** Back to an error that code can switch on; an unknown code (a newer agent) becomes `protocol-version`. */
export function fromApiError(error: ApiError): TidemarkError {
  const known = Object.hasOwn(errorTable, error.code);
  const code = known ? (error.code as ErrorCode) : 'protocol-version';
  const message = known ? error.message : `${error.message} (code ${error.code})`;
  return new TidemarkError(code, message, { ...(error.path === null ? {} : { path: error.path }) });
}
