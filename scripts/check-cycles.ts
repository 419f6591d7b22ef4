/** Fails when our modules import each other in a circle. Type-only imports count too: a circle of types is one as well. */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';
import { root } from './lib/bundle.ts';

const specifier = /^(?:import|export)\b[^'"]*?from\s+['"](\.{1,2}\/[^'"]+)['"]|^import\s+['"](\.{1,2}\/[^'"]+)['"]/gm;

const graph = new Map<string, string[]>();
for (const file of globSync(['{agent,components,examples,scripts,test}/**/*.ts'], { cwd: root }).sort()) {
  if (file.includes('node_modules')) continue;
  const text = readFileSync(join(root, file), 'utf8');
  const targets = [...text.matchAll(specifier)]
    .map((match) => normalize(join(dirname(file), (match[1] ?? match[2])!)).replace(/\.js$/, '.ts'))
    .filter((target) => existsSync(join(root, target)));
  graph.set(file, targets);
}

const cycles: string[] = [];
const finished = new Set<string>();

function visit(file: string, path: string[]): void {
  if (finished.has(file)) return;
  const start = path.indexOf(file);
  if (start >= 0) {
    cycles.push([...path.slice(start), file].join(' → '));
    return;
  }
  for (const target of graph.get(file) ?? []) visit(target, [...path, file]);
  finished.add(file);
}

for (const file of graph.keys()) visit(file, []);
for (const cycle of cycles) console.error(`import cycle: ${cycle}`);
process.exit(cycles.length > 0 ? 1 : 0);
