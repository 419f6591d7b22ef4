/** Where things are in the checkout. */
export function repositoryRoot(): string {
  return process.env['TIDEMARK_ROOT'] ?? process.cwd();
}
