/**
 * Builds dist/provider: the Pulumi provider in one script, for any Node that Pulumi supports, and `pulumi-resource-tidemark`,
 * which starts it. Takes a second; written by renames, so that a running engine never sees half a file.
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
  // The engine waits for it to be read; names stay for what a stack trace says.
  minifyWhitespace: true,
  minifySyntax: true,
  define: {
    __TIDEMARK_PROVIDER_VERSION__: JSON.stringify(version),
    __TIDEMARK_PLANTED__: 'false',
    __TIDEMARK_UNIT__: JSON.stringify(readFileSync(join(root, 'packaging', 'tidemark-agent.service'), 'utf8')),
  },
  // Compiled parts that ssh2 does without.
  external: ['*.node', 'cpu-features'],
});
/** Compiling is most of a start: Node keeps what it has compiled beside it (22.1 and later), while nothing else is to do. */
const starter = `#!/usr/bin/env node
const { enableCompileCache, flushCompileCache } = require('node:module');
enableCompileCache?.(require('node:path').join(__dirname, '.compiled'));
require('./provider.js');
setTimeout(() => flushCompileCache?.(), 300).unref();
`;
publish('provider.js', result.outputFiles[0]!.text);
publish('pulumi-resource-tidemark', starter);
// A script without an extension is CommonJS only where package.json says so.
publish('package.json', '{ "type": "commonjs" }\n');
console.log(`dist/provider ${version} is built`);

function publish(name: string, text: string): void {
  const path = join(directory, name);
  writeFileSync(`${path}.${process.pid}`, text);
  chmodSync(`${path}.${process.pid}`, 0o755);
  renameSync(`${path}.${process.pid}`, path);
}
