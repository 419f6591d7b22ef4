/** The demo's set-up, its end, and what it says at the end. */
import { formatBytes } from '../../agent/src/cli/format.js';
import { pulumiTools } from '../../test/support/pulumi-command.js';
import { TwoTierSites, group } from '../../test/support/two-tier-sites.js';
import { groupDisks, waitApplication } from '../../test/support/two-tier.js';
import { isWrong, ledgerLines } from './ledger.js';
import { LifeOfTheShop } from './life.js';
import { colours, progressOf, Screen } from './screen.js';
import { DemoStack } from './stack.js';

/** Resolves with the exit code: not 0 when a step failed, or lost what it must not. */
export async function runDemo(): Promise<number> {
  const screen = new Screen();
  await using owned = new AsyncDisposableStack();
  let interrupted = false;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => {
      interrupted = true;
      screen.end(`\n${signal}: ending both VMs, agents and libvirts.`);
      void owned.disposeAsync().finally(() => process.exit(130));
    });
  screen.say('Tidemark: an application in two virtual machines, protected and recovered by');
  screen.say('updates of one Pulumi stack. Two sites on this machine; emulated, no KVM needed.\n');
  let sites: TwoTierSites | undefined;
  try {
    sites = await start(screen, owned);
    const stack = owned.use(await openStack(sites, screen));
    const life = new LifeOfTheShop(sites, stack, screen);
    await life.run();
    screen.clear();
    return await conclude(sites, stack, life);
  } catch (error) {
    // The end of what was going on when it was interrupted is no news.
    if (interrupted) return await new Promise<number>(() => {});
    const { message, cause } = error as Error;
    screen.say(colours.red(`\nThe demo failed: ${message}${cause instanceof Error ? `: ${cause.message}` : ''}`));
    for (const agent of sites === undefined ? [] : [sites.source, sites.target])
      if (agent.wasStarted) screen.say(`\nlast lines of ${agent.name}:\n${agent.process.log(10)}`);
    return 1;
  }
}

async function start(screen: Screen, owned: AsyncDisposableStack): Promise<TwoTierSites> {
  screen.say('1  Two sites, each a libvirt and an agent. Amsterdam boots a database and its client.');
  pulumiTools();
  const startedMs = performance.now();
  const sites = await screen.during('making ready', async (report) =>
    TwoTierSites.boot({
      owned,
      named: { source: 'amsterdam', target: 'frankfurt' },
      onImageBytes: (done, total) => report(progressOf(done, total, startedMs), 'guest image'),
    }),
  );
  await screen.during('both agents start', async () => {
    for (const agent of [sites.target, sites.source]) await agent.start();
  });
  await screen.during('both VMs boot', () => waitApplication(sites.here.virsh, undefined, 300_000));
  screen.say('   The client commits numbers, and keeps each acknowledged one on its own disk.');
  return sites;
}

function openStack({ lab, image, source, target }: TwoTierSites, screen: Screen): Promise<DemoStack> {
  const sizesOf = (vm: string): Record<string, number> =>
    Object.fromEntries(groupDisks(image, [vm]).map(({ name, sizeBytes }) => [name.slice(vm.length + 1), sizeBytes]));
  const disks = { db: sizesOf('db'), client: sizesOf('client') };
  return DemoStack.open({ lab, amsterdam: source, frankfurt: target, disks, screen });
}

async function conclude(sites: TwoTierSites, stack: DemoStack, { entries }: LifeOfTheShop): Promise<number> {
  const { journal } = await sites.target.client.group(group);
  const { activeSite, state } = await stack.outputs();
  const wrong = entries.filter(isWrong);
  process.stdout.write('\n');
  for (const line of ledgerLines(entries)) process.stdout.write(`${line.wrong ? colours.red(line.text) : line.text}\n`);
  const notes = [
    'RPO      time between the checkpoint and the loss',
    'RTO      until the first VM started; SOURCE: waited for the source before that',
    'ANSWERS  until the application committed again',
    'ACKED    transactions that the client had as acknowledged before the step',
    'LOST     of these; all of them younger than the checkpoint',
    '',
    `Now      pulumi stack output: activeSite ${activeSite}, state ${state}`,
    `Journal  ${journal === null ? 'none' : `${formatBytes(journal.bytes)}, ${journal.checkpointCount} checkpoints, at Frankfurt`}`,
    `Files    ${sites.lab.directory}, removed now (TIDEMARK_KEEP=1 keeps them)`,
  ];
  process.stdout.write(`\n${notes.join('\n')}\n\n`);
  for (const { step } of wrong)
    process.stdout.write(colours.red(`${step}: transactions were lost that must not be.\n`));
  if (wrong.length === 0) process.stdout.write(colours.green('Nothing was lost that must not be. '));
  return wrong.length === 0 ? 0 : 1;
}
