/** What an update leaves when it is cut short, and what nobody may read. */
import { afterEach, beforeAll, beforeEach, expect, test } from '@jest/globals';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { operatorName } from '../support/agent-handle.js';
import { describePulumi, pulumiTools, toolsTimeoutMs, type CommandResult } from '../support/pulumi-project.js';
import { waitFor } from '../support/wait.js';
import { startDisksRig, type DisksRig } from './disks-rig.js';

let rig: DisksRig;

async function ok(result: Promise<CommandResult>): Promise<string> {
  const { code, output } = await result;
  if (code !== 0) throw new Error(`ended with ${code}:\n${output}`);
  return output;
}

/** An update that waits for a source that does not run. */
async function waitingUpdate(): Promise<{ pid: number; ended: Promise<CommandResult> }> {
  rig.declare({ waitFor: 'synced' });
  const update = rig.project.start('up', '--yes', '--skip-preview');
  await waitFor('the group', () => rig.target.client.group('shop'));
  return update;
}

/** What `ps` would have shown of any process while the work was under way. */
async function watchProcesses(work: Promise<unknown>): Promise<string> {
  const seen = new Set<string>();
  let isOver = false;
  const over = work.finally(() => (isOver = true)).catch(() => undefined);
  while (!isOver) {
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) seen.add(commandLine(pid));
    await Promise.race([over, pause(50)]);
  }
  expect([...seen].some((line) => line.includes('pulumi-resource-tidemark'))).toBe(true);
  return [...seen].join('\n');
}

function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}

describePulumi('cut short', () => {
  beforeAll(() => void pulumiTools(), toolsTimeoutMs);
  beforeEach(async () => (rig = await startDisksRig()), 120_000);
  afterEach(async () => rig?.[Symbol.asyncDispose]());

  test('an engine that is killed in the middle of a create: the next update continues it', async () => {
    const update = await waitingUpdate();
    process.kill(update.pid, 'SIGKILL');
    await update.ended;
    const before = await rig.target.client.group('shop');
    await ok(rig.project.try('cancel', '--yes'));
    await rig.source.start();
    await ok(rig.project.up());
    const after = await rig.target.client.group('shop');
    expect(after.epoch).toEqual(before.epoch);
    expect(after.owner?.replace(/#.*/, '')).toBe(before.owner?.replace(/#.*/, ''));
    await ok(rig.project.preview('--expect-no-changes'));
  }, 300_000);

  test('cancel stops the wait, not the protection; the state is saved', async () => {
    const update = await waitingUpdate();
    process.kill(update.pid, 'SIGINT');
    const { code, output } = await update.ended;
    expect(code).not.toBe(0);
    expect(output).toContain('Cancelled');
    const [saved] = (await rig.project.resources()).filter(({ type }) => type === 'tidemark:index:ProtectionGroup');
    expect(saved?.id).toMatch(/\/shop$/);
    expect((await rig.target.client.group('shop')).state).toBe('initial');
    await rig.source.start();
    await ok(rig.project.up());
    await ok(rig.project.preview('--expect-no-changes'));
  }, 300_000);

  test('secrets are in no state, preview, output, log or answer', async () => {
    const { project, target, lab } = rig;
    const key = readFileSync(join(lab.pkiDirectory, `${operatorName}.key`), 'utf8');
    const canaries = [key.split('\n')[1]!, '203.0.113.77', 'canary-checkpoint-label'];
    await project.config('tidemark:key', key, '--secret');
    rig.declare(
      { sourceAddresses: { db: [{ 'fn::secret': canaries[1] }] } },
      { outputs: { addresses: '${shop.addresses}' } },
    );
    const texts = [await ok(project.preview('--diff'))];
    const update = ok(project.up('--diff'));
    const lists = watchProcesses(update);
    texts.push(await update, await lists);
    rig.declare({
      sourceAddresses: { db: [{ 'fn::secret': canaries[1] }] },
      recovery: { request: 'r', action: 'failover', checkpoint: { 'fn::secret': `label:${canaries[2]}` } },
    });
    const refused = await project.preview('--diff');
    expect(refused.output).toContain('[secret]');
    texts.push(refused.output, await ok(project.refresh('--diff')), await project.run('stack', 'export'));
    texts.push(JSON.stringify(await target.client.group('shop')), JSON.stringify(await target.client.operations()));
    texts.push(readFileSync(join(lab.directory, 'target.log'), 'utf8'));
    texts.push(readFileSync(join(project.directory, 'Pulumi.dev.yaml'), 'utf8'));
    for (const text of texts) for (const canary of canaries) expect(text).not.toContain(canary);
    expect(await project.outputs()).toEqual({ addresses: { db: [canaries[1]] } });
  }, 300_000);
});
