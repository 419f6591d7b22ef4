/**
 * make demo: an application in two real virtual machines, protected, drilled, lost, brought back, overwritten with rubbish,
 * recovered from before it, and moved home; each transaction is counted. It uses the agents' control API, as the CLI does.
 * The two sites on one machine are test/support/two-tier-sites.ts, the laboratory of the tests.
 *
 * `--disks`: without VMs and without root, on disk images.
 */
import { formatSeconds } from '../../agent/src/cli/format.js';
import { whyNoVms } from '../../test/support/vm-host.js';
import { runDisksDemo } from './disks.js';
import { runVmsDemo } from './vms.js';

async function main(args: readonly string[]): Promise<number> {
  const unknown = args.find((arg) => arg !== '--disks');
  if (unknown !== undefined) {
    process.stderr.write(`demo: unknown option ${unknown}; there is --disks\n`);
    return 2;
  }
  const startedMs = performance.now();
  const reason = whyNoVms();
  if (args.length === 0 && reason === undefined) {
    const code = await runVmsDemo();
    process.stdout.write(`Took ${formatSeconds((performance.now() - startedMs) / 1000)}.\n`);
    return code;
  }
  if (args.length === 0)
    process.stdout.write(`The demo with two real VMs cannot run here: ${reason}.\nSo it runs on disk images.\n\n`);
  return runDisksDemo();
}

process.exit(await main(process.argv.slice(2)));
