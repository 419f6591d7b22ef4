/**
 * `pulumi preview` of an unchanged stack of protected applications beside one of as many empty components, and the start of
 * the provider beside one that the SDK's own server serves.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { operatorName } from '../support/agent-handle.js';
import { Laboratory } from '../support/laboratory.js';
import { repositoryRoot } from '../support/paths.js';
import { providerDirectory, PulumiProject, pulumiTools, whyNoPulumi } from '../support/pulumi-command.js';
import type { Benchmark } from './context.js';
import { number, series, spread } from './statistics.js';

/** Both import the same, so that reading the SDK costs the same. */
const programs = {
  applications: `for (let i = 0; i < count; i++)
    new ProtectedApplication('app' + i, { source, target, disks: { data: '1GiB' } });`,
  components: `class Empty extends pulumi.ComponentResource {
      constructor(name) {
        super('bench:index:Empty', name);
        this.registerOutputs();
      }
    }
    for (let i = 0; i < count; i++) new Empty('app' + i);`,
};
type Kind = keyof typeof programs;
const kinds = Object.keys(programs) as Kind[];

export const pulumi: Benchmark = {
  name: 'pulumi',
  async run({ plan, say }) {
    const why = whyNoPulumi();
    if (why !== undefined) throw new Error(`no Pulumi on this machine: ${why}`);
    pulumiTools();
    const { rounds, applicationCount } = plan.pulumi;
    await using lab = await Laboratory.open();
    const agent = await lab.startAgent('target', { peers: [{ name: 'source' }] });
    const projects = new Map<Kind, PulumiProject>();
    for (const kind of kinds) {
      projects.set(kind, await openProject(lab, kind, agent.addresses.api, applicationCount));
      const { code, output } = await projects.get(kind)!.up('--skip-preview');
      if (code !== 0) throw new Error(`up of ${kind} ended with ${code}:\n${output}`);
    }
    const preview: Record<Kind, number[]> = { applications: [], components: [] };
    const start: Record<'ours' | 'sdk', number[]> = { ours: [], sdk: [] };
    const sdk = sdkProvider(lab);
    for (let round = 0; round < rounds; round++) {
      for (const kind of kinds) preview[kind].push(await previewSeconds(projects.get(kind)!));
      start.ours.push(await startSeconds(join(providerDirectory(), 'pulumi-resource-tidemark')));
      start.sdk.push(await startSeconds(sdk));
      say(`preview ${number(preview.applications.at(-1)!)} s, of components ${number(preview.components.at(-1)!)} s`);
    }
    const each = (one: number[], other: number[], of: (a: number, b: number) => number): number[] =>
      one.map((value, round) => of(value, other[round]!));
    return {
      title: 'Pulumi',
      goals: [
        {
          name: `preview of ${applicationCount} unchanged applications to that of as many empty components`,
          measured: series(each(preview.applications, preview.components, (a, b) => a / b)),
          bound: 1.5,
          direction: 'at most',
        },
        {
          name: "start of the provider over the SDK's own",
          measured: series(each(start.ours, start.sdk, (a, b) => a - b)),
          bound: 0.5,
          direction: 'at most',
          unit: 's',
        },
      ],
      tables: [
        {
          title: 'Seconds',
          head: ['', 'ours', 'beside it'],
          rows: [
            ['preview', spread(series(preview.applications)), spread(series(preview.components))],
            ['start of a provider', spread(series(start.ours)), spread(series(start.sdk))],
          ],
        },
      ],
      notes: ['A preview of an unchanged stack asks no agent: state is compared with the program.'],
    };
  },
};

async function openProject(lab: Laboratory, kind: Kind, api: string, count: number): Promise<PulumiProject> {
  const directory = join(lab.path(kind, 'x'), '..');
  const source = join(lab.directory, `${kind}.ts`);
  writeFileSync(
    source,
    `import * as pulumi from '@pulumi/pulumi';
    import { ProtectedApplication, Site } from '${join(repositoryRoot(), 'components', 'index.js')}';
    const count = ${count};
    const source = new Site('here', { site: 'here', agent: 'source' });
    const target = new Site('there', { site: 'there', agent: 'target', connection: { api: 'https://${api}' } });
    ${programs[kind]}`,
  );
  await build({
    entryPoints: [source],
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'esm',
    packages: 'external',
    outfile: join(directory, 'index.mjs'),
    logLevel: 'warning',
    nodePaths: [join(repositoryRoot(), 'node_modules')],
  });
  writeFileSync(join(directory, 'package.json'), '{ "type": "module" }\n');
  symlinkSync(join(repositoryRoot(), 'node_modules'), join(directory, 'node_modules'));
  const pki = (file: string): string => join(lab.pkiDirectory, file);
  return PulumiProject.open({
    directory,
    program: { runtime: { name: 'nodejs' }, main: 'index.mjs' },
    config: {
      'tidemark:certificate': pki(`${operatorName}.crt`),
      'tidemark:key': pki(`${operatorName}.key`),
      'tidemark:authority': pki('ca.crt'),
    },
  });
}

async function previewSeconds(project: PulumiProject): Promise<number> {
  const sinceMs = performance.now();
  const { code, output } = await project.preview('--expect-no-changes');
  if (code !== 0) throw new Error(`preview ended with ${code}:\n${output}`);
  return (performance.now() - sinceMs) / 1000;
}

function sdkProvider(lab: Laboratory): string {
  const file = join(lab.directory, 'sdk-provider.cjs');
  const sdk = join(repositoryRoot(), 'node_modules', '@pulumi', 'pulumi', 'provider');
  writeFileSync(file, `require(${JSON.stringify(sdk)}).main({ version: '1.0.0', schema: '{}' }, ['127.0.0.1:1']);\n`);
  return file;
}

/** Until it says its port. */
async function startSeconds(script: string): Promise<number> {
  const sinceMs = performance.now();
  const child = spawn(process.execPath, [script, '127.0.0.1:1'], { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    await once(child.stdout, 'data', { signal: AbortSignal.timeout(30_000) });
    return (performance.now() - sinceMs) / 1000;
  } finally {
    child.kill('SIGKILL');
  }
}
