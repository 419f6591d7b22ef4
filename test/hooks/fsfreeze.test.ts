import { describe, expect, test } from '@jest/globals';
import { createHook } from '../../agent/src/hooks/registry.js';
import { hookSettingsSchema } from '../../agent/src/hooks/settings.js';
import { Dialogue } from './dialogue.js';
import { FreezingAgent } from './freezing-guest.js';
import { hookStep } from './step.js';

const settings = hookSettingsSchema.parse({ kind: 'fsfreeze', dirtyBytesMax: 100 * 1024 });
const guest = (dirtyKiB: readonly number[]): Dialogue => {
  let at = 0;
  const answer = (): string => `${dirtyKiB[Math.min(at++, dirtyKiB.length - 1)]}\n`;
  return new Dialogue({ start: 'up', outOfOrder: 'sh: no', lines: [{ on: /sync -f/, answer }] });
};

describe('fsfreeze', () => {
  test('syncs until little is dirty, freezes, thaws, and proves it', async () => {
    const [agent, dialogue, hook] = [new FreezingAgent(), guest([5000, 800, 64]), createHook(settings)];
    const step = hookStep(dialogue, { agent });
    expect(await hook.prepare(step)).toEqual({ findings: [] });
    expect(dialogue.said).toHaveLength(3);
    await hook.quiesce(step);
    expect(agent.state).toBe('frozen');
    await hook.release(step);
    expect(await hook.verify(step)).toEqual({
      findings: [],
      verifiedBy: ['3 thawed = 3 frozen'],
      facts: { fileSystems: 3 },
    });
    await hook.release(step);
    expect(agent.calls).toEqual(['guest-fsfreeze-freeze', 'guest-fsfreeze-thaw', 'guest-fsfreeze-status']);
    expect(dialogue.violations).toEqual([]);
  });

  test('a thaw by somebody else is a finding; the state of the guest agent is reset', async () => {
    const [agent, hook] = [new FreezingAgent(), createHook(settings)];
    const step = hookStep(guest([0]), { agent });
    await hook.prepare(step);
    await hook.quiesce(step);
    agent.frozen = 0;
    await hook.release(step);
    expect((await hook.verify(step)).findings).toMatchObject([{ code: 'thawed-early' }]);
    expect(agent.state).toBe('thawed');
  });

  test('a release before any freeze calls nobody; undo ends what was left', async () => {
    const [agent, hook] = [new FreezingAgent(), createHook(settings)];
    const step = hookStep(guest([0]), { agent });
    await hook.release(step);
    expect(agent.calls).toEqual([]);
    expect(await createHook(settings).undo(step)).toEqual([]);
    await hook.quiesce(step);
    expect(await createHook(settings).undo(step)).toEqual(['thawed 3 file systems']);
    expect(agent.state).toBe('thawed');
  });

  test('without a guest agent, and with one that freezes nothing, it fails', async () => {
    const hook = createHook(settings);
    await expect(hook.prepare(hookStep(guest([0])))).rejects.toThrow('needs its guest agent');
    const agent = new FreezingAgent();
    agent.call = () => Promise.resolve(0);
    await expect(hook.quiesce(hookStep(guest([0]), { agent }))).rejects.toThrow('froze 0 file systems');
  });
});
