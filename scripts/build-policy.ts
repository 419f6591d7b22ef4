/** Builds dist/policy: the policy pack, in one script beside what Pulumi wants to find. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { root } from './lib/bundle.ts';

const directory = join(root, 'dist', 'policy');
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };

mkdirSync(directory, { recursive: true });
await build({
  entryPoints: [join(root, 'components', 'policy', 'main.ts')],
  absWorkingDir: root,
  bundle: true,
  platform: 'node',
  target: 'node20',
  format: 'cjs',
  packages: 'external',
  outfile: join(directory, 'index.js'),
  logLevel: 'warning',
});
writeFileSync(
  join(directory, 'package.json'),
  `${JSON.stringify({ name: 'tidemark-policy', version, type: 'commonjs', main: 'index.js' }, null, 2)}\n`,
);
writeFileSync(
  join(directory, 'PulumiPolicy.yaml'),
  `runtime: nodejs\nversion: ${version}\ndescription: Is what must survive protected?\n`,
);
console.log(`dist/policy ${version} is built`);
