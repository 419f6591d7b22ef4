/** Writes the generated pages again: `npm run run-ts -- agent/src/control/generate-docs.ts`. Tests fail when they are old. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { generatedPages } from './pages.js';

for (const [name, text] of generatedPages())
  writeFileSync(join(process.env['TIDEMARK_ROOT'] ?? '.', 'docs', name), text);
