/**
 * Makes resources without the stack traces that the SDK takes for each of their properties, four times, to name promises that
 * leak: with source maps they are most of the time of a program with many resources. Where a resource was made is recorded
 * as ever. With `PULUMI_DEBUG_PROMISE_LEAKS` they are taken.
 */
export function withoutTraces<Made>(make: () => Made): Made {
  if (process.env['PULUMI_DEBUG_PROMISE_LEAKS'] !== undefined) return make();
  const { stackTraceLimit } = Error;
  Error.stackTraceLimit = 0;
  try {
    return make();
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
}
