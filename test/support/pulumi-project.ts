/** Pulumi in tests: the project, and suites that are skipped where the CLI cannot be had. */
import { describe } from '@jest/globals';
import { whyNoPulumi } from './pulumi-command.js';

export * from './pulumi-command.js';

/** Tests that need the CLI; where it cannot be had they are skipped, and their title says why. */
export function describePulumi(title: string, tests: () => void): void {
  const reason = whyNoPulumi();
  if (reason === undefined) describe(title, tests);
  else describe.skip(`${title} (skipped: ${reason})`, tests);
}
