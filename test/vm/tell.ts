/** A line beside the test's result: what was measured. */
export function tell(line: string): void {
  process.stderr.write(`two-tier: ${line}\n`);
}

export function seconds(ms: number): string {
  return (ms / 1000).toFixed(1);
}
