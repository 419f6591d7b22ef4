/**
 * Builds dist/provider/pulumi-resource-tidemark: the Pulumi provider in one script, for any Node that Pulumi supports.
 * Takes a second; written by a rename, so that a running engine never sees half a file.
 */
import { chmodSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { root } from './lib/bundle.ts';

const directory = join(root, 'dist', 'provider');
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };

mkdirSync(directory, { recursive: true });
const result = await build({
  entryPoints: [join(root, 'components', 'provider', 'main.ts')],
  absWorkingDir: root,
  bundle: true,
  write: false,
  platform: 'node',
  target: 'node20',
  format: 'cjs',
  logLevel: 'warning',
  legalComments: 'none',
  define: {
    __TIDEMARK_PROVIDER_VERSION__: JSON.stringify(version),
    __TIDEMARK_PLANTED__: 'false',
    __TIDEMARK_UNIT__: JSON.stringify(readFileSync(join(root, 'packaging', 'tidemark-agent.service'), 'utf8')),
  },
  // Compiled parts that ssh2 does without.
  external: ['*.node', 'cpu-features'],
  banner: { js: '#!/usr/bin/env node' },
});
publish('pulumi-resource-tidemark', result.outputFiles[0]!.text);
// A script without an extension is CommonJS only where package.json says so.
publish('package.json', '{ "type": "commonjs" }\n');
console.log(`dist/provider ${version} is built`);

function publish(name: string, text: string): void {
  const path = join(directory, name);
  writeFileSync(`${path}.${process.pid}`, text);
  chmodSync(`${path}.${process.pid}`, 0o755);
  renameSync(`${path}.${process.pid}`, path);
}
