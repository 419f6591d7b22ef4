/** This machine, with the rights of whoever runs Pulumi: for trying out. */
import { spawn } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { Readable } from 'node:stream';
import { TidemarkError } from '../agent-client.js';
import { outputCharactersMax, runMsDefault, type Host, type RunOptions, type RunResult } from './host.js';

export const localHost: Host = {
  name: 'this machine',
  run: runHere,
  [Symbol.asyncDispose]: () => Promise.resolve(),
};

async function runHere(script: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const { input = '', timeoutMs = runMsDefault } = options;
  const child = spawn('sh', ['-c', script, 'sh', ...args], {
    stdio: 'pipe',
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
  });
  const ended = new Promise<number | undefined>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve(code ?? undefined));
  });
  // A script that ends before it has read all of its input says so by its exit code.
  const given = pipeline(typeof input === 'string' ? Readable.from([input]) : input, child.stdin).catch(
    () => undefined,
  );
  const [stdout, stderr, code] = await Promise.all([text(child.stdout), text(child.stderr), ended, given]);
  if (code === undefined)
    throw new TidemarkError('timed-out', `A command on this machine took longer than ${timeoutMs / 1000} s.`);
  return { code, stdout: stdout.slice(0, outputCharactersMax), stderr: stderr.slice(0, outputCharactersMax) };
}
