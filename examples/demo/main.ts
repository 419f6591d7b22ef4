/**
 * make demo: an application in two real virtual machines, declared, lost, recovered and moved home by nothing but
 * `pulumi config set` and `pulumi up` of the program beside this (demo.ts); each transaction is counted. The two sites on
 * one machine are test/support/two-tier-sites.ts, the laboratory of the tests.
 */
import { formatSeconds } from '../../agent/src/cli/format.js';
import { whyNoPulumi } from '../../test/support/pulumi-command.js';
import { whyNoVms } from '../../test/support/vm-host.js';
import { runDemo } from './run.js';

async function main(args: readonly string[]): Promise<number> {
  if (args.length > 0) {
    process.stderr.write(`demo: unknown option ${args[0]}; it has none\n`);
    return 2;
  }
  const reason = whyNoVms() ?? whyNoPulumi();
  if (reason !== undefined) {
    process.stderr.write(`The demo cannot run here: ${reason}.\nWithout VMs and root: examples/quickstart/README.md\n`);
    return 1;
  }
  const startedMs = performance.now();
  const code = await runDemo();
  process.stdout.write(`Took ${formatSeconds((performance.now() - startedMs) / 1000)}.\n`);
  return code;
}

process.exit(await main(process.argv.slice(2)));
