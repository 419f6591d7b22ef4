/** The version that a build carries: package.json's, the commit, and whether the agent's sources differ from it. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './bundle.ts';

export function describeVersion(): string {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  try {
    const commit = git('rev-parse', '--short=10', 'HEAD');
    const changed = git('status', '--porcelain', '--', 'agent', 'package.json', 'package-lock.json') !== '';
    return `${version}+${commit}${changed ? '.changed' : ''}`;
  } catch {
    return version; // a source archive without git
  }
}

function git(...args: string[]): string {
  return execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
}
