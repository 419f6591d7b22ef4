import { describe, expect, test } from '@jest/globals';
import { TidemarkError } from '../../agent/src/core/errors.js';
import { unprotectedPaths } from '../../agent/src/hooks/guest-paths.js';
import { HeldVm } from '../../agent/src/hooks/held-vm.js';
import { holdAndMark, type HoldOutcome } from '../../agent/src/hooks/hold.js';
import type { Hook } from '../../agent/src/hooks/hook.js';
import { createHook } from '../../agent/src/hooks/registry.js';
import { hookedVmSchema, hookSettingsSchema } from '../../agent/src/hooks/settings.js';
import { pathsOf, writersOf } from '../../agent/src/hooks/vss-writers.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { Dialogue, type DialogueLine } from './dialogue.js';
import { FreezingAgent } from './freezing-guest.js';
import { hookStep } from './step.js';

const kinds = ['windows', 'sqlserver', 'exchange', 'sharepoint'] as const;
type Kind = (typeof kinds)[number];
const names: Record<Kind, string> = {
  windows: 'System Writer',
  sqlserver: 'SqlServerWriter',
  exchange: 'Microsoft Exchange Writer',
  sharepoint: 'SharePoint Services Writer',
};

interface Said {
  readonly state?: string;
  readonly lastError?: string;
  readonly instance?: string;
}
const writer = (name: string, { state = '[1] Stable', lastError = 'No error', instance = '1' }: Said = {}): string =>
  [
    `Writer name: '${name}'`,
    '   Writer Id: {a65faa63-5ea8-4ebc-9dbd-a0c4db26912a}',
    `   Writer Instance Id: {00000000-0000-0000-0000-00000000000${instance}}`,
    `   State: ${state}`,
    `   Last error: ${lastError}\r\n\r\n`,
  ].join('\r\n');
const header = 'vssadmin 1.1 - Volume Shadow Copy Service administrative command-line tool\r\n(C) Copyright\r\n\r\n';
const others = writer('Task Scheduler Writer') + writer('VSS Metadata Store Writer');
const data = String.raw`D:\SQL\DATA`;
const detail = (name: string): string =>
  [
    'DISKSHADOW> list writers detailed',
    'Listing detailed writer metadata ...',
    '* WRITER "System Writer"',
    '\t+ Component "System Writer:\\System Files"',
    '\t\t- Paths affected by this component:',
    String.raw`			- C:\Windows`,
    `* WRITER "${name}"`,
    '\t- Writer ID   = {a65faa63-5ea8-4ebc-9dbd-a0c4db26912a}',
    '\t- Excluded files:',
    String.raw`		+ Component "${name}:\WIN\SHOP"`,
    '\t\t- Name = SHOP',
    '\t\t- Paths affected by this component:',
    `\t\t\t- ${data}`,
    String.raw`			- E:\LOG`,
    '\t\t- Volumes affected by this component:',
    String.raw`			- \\?\Volume{7f5c8d4e-0000-0000-0000-100000000000}\ [D:\]`,
    '\t\t- Component Dependencies:',
  ].join('\r\n');

interface Guest {
  readonly before?: string;
  /** One after the other; the last stays. */
  readonly after?: readonly string[];
  readonly detail?: string;
  readonly first?: readonly DialogueLine[];
}

/** Writers have to be looked at, then the components, and the writers again once the freeze is over. */
function guest(kind: Kind, { before, after, detail: said, first = [] }: Guest = {}): Dialogue {
  const [sound, name] = [header + others + writer(names[kind]), names[kind]];
  let at = 0;
  const hasFiles = kind === 'sqlserver' || kind === 'exchange';
  const lines: DialogueLine[] = [
    ...first,
    {
      in: ['up'],
      on: /^powershell\.exe -NoProfile .* -Command vssadmin list writers; exit/,
      ...{ answer: before ?? sound, next: hasFiles ? 'seen' : 'ready' },
    },
    {
      in: ['seen'],
      on: /'list writers detailed', 'exit' \| diskshadow/,
      ...{ answer: said ?? detail(name), next: 'ready' },
    },
    {
      in: ['ready'],
      on: /-Command vssadmin list writers; exit/,
      answer: () => after?.[Math.min(at++, after.length - 1)] ?? sound,
    },
  ];
  return new Dialogue({ start: 'up', lines, outOfOrder: "'sh' is not recognized as an internal or external command" });
}
const hook = (kind: Kind, more: object = {}): Hook => createHook(hookSettingsSchema.parse({ kind, ...more }) as never);

describe.each(kinds)('%s', (kind) => {
  const name = names[kind];

  test('its writers are sound before, and the same and sound after', async () => {
    const waiting = header + others + writer(name, { state: '[5] Waiting for completion' });
    const sound = header + others + writer(name);
    const [dialogue, vss] = [guest(kind, { after: [waiting, sound] }), hook(kind)];
    const step = { ...hookStep(dialogue, { isWindows: true }), leftMs: () => 30_000 };
    expect(await vss.prepare(step)).toEqual({ findings: [] });
    await vss.quiesce(step);
    await vss.release(step);
    const { findings, verifiedBy } = await vss.verify(step);
    expect(findings).toEqual([]);
    expect(verifiedBy.join()).toContain(name);
    expect({ violations: dialogue.violations, state: dialogue.state }).toEqual({ violations: [], state: 'ready' });
  });

  test.each([
    { state: '[8] Failed', lastError: 'Retryable error' },
    { state: '[9] Failed', lastError: 'Timed out' },
    { state: '[1] Stable', lastError: 'Non-retryable error' },
    { state: '[11] Failed', lastError: 'Inconsistent shadow copy' },
  ])('$state, $lastError is a finding before and after', async (said) => {
    const failed = header + writer(name, said);
    const before = guest(kind, { before: failed });
    expect((await hook(kind).prepare(hookStep(before))).findings).toMatchObject([{ code: 'writer-failed' }]);
    expect(before.said).toHaveLength(1);
    const after = guest(kind, { after: [failed] });
    const vss = hook(kind);
    await vss.prepare(hookStep(after));
    const { findings, verifiedBy } = await vss.verify(hookStep(after));
    expect(findings).toContainEqual(expect.objectContaining({ code: 'writer-failed' }) as object);
    expect(verifiedBy).toEqual([]);
  });

  test('a writer that is started anew in the middle is a finding; so is one that stays on its way', async () => {
    const anew = guest(kind, { after: [header + others + writer(name, { instance: '2' })] });
    const vss = hook(kind);
    await vss.prepare(hookStep(anew));
    expect((await vss.verify(hookStep(anew))).findings).toContainEqual(
      expect.objectContaining({ code: 'writer-restarted' }) as object,
    );
    const stuck = guest(kind, { after: [header + others + writer(name, { state: '[4] Waiting for thaw' })] });
    const other = hook(kind);
    const step = { ...hookStep(stuck), leftMs: () => 100 };
    await other.prepare(step);
    expect((await other.verify(step)).findings).toContainEqual(
      expect.objectContaining({ code: 'writer-failed' }) as object,
    );
  });

  test('what is not known, and a command that fails, are errors', async () => {
    const strange = guest(kind, { before: 'Error: 0x80042302' });
    await expect(hook(kind).prepare(hookStep(strange))).rejects.toThrow('no writer in a form that is known');
    const failed = { errors: 'VSS_E_WRITER_INFRASTRUCTURE (0x80042318)', exitCode: 2 };
    const broken = guest(kind, { first: [{ on: /vssadmin/, ...failed }] });
    await expect(hook(kind).prepare(hookStep(broken))).rejects.toThrow('0x80042318');
    await expect(hook(kind).verify(hookStep(guest(kind)))).rejects.toThrow('never looked at');
  });
});

describe('VSS', () => {
  test.each(['sqlserver', 'exchange', 'sharepoint'] as const)('%s without its writer is a finding', async (kind) => {
    const dialogue = guest(kind, { before: header + others });
    expect((await hook(kind).prepare(hookStep(dialogue))).findings).toMatchObject([{ code: 'writer-missing' }]);
  });

  test.each(['sqlserver', 'exchange'] as const)(
    'databases of %s elsewhere, or not to be seen, are findings',
    async (kind) => {
      for (const path of [data, String.raw`E:\LOG`]) {
        const step = hookStep(guest(kind), { unprotectedPaths: [path] });
        expect((await hook(kind).prepare(step)).findings).toMatchObject([{ code: 'data-unprotected' }]);
      }
      const none = guest(kind, { detail: 'DISKSHADOW> list writers detailed' });
      expect((await hook(kind).prepare(hookStep(none))).findings).toMatchObject([{ code: 'data-unprotected' }]);
    },
  );

  test('writers are read by form, in the language of the guest', async () => {
    const german = `Verfassername: 'SqlServerWriter'
   Verfasserkennung: {a65faa63-5ea8-4ebc-9dbd-a0c4db26912a}
   Verfasserinstanzkennung: {00000000-0000-0000-0000-000000000001}
   Status: [1] Stabil
   Letzter Fehler: Kein Fehler
`;
    expect(writersOf(german)).toMatchObject([{ name: 'SqlServerWriter', state: 1, lastError: 'Kein Fehler' }]);
    const step = hookStep(guest('sqlserver', { before: german }));
    expect((await hook('sqlserver', { noErrorText: 'Kein Fehler' }).prepare(step)).findings).toEqual([]);
    const cut = german.split('\n').slice(0, 4).join('\n');
    expect(writersOf(cut)).toEqual([]);
    expect(pathsOf(detail('X').replaceAll('\r', ''), (name) => name === 'X')).toEqual([data, String.raw`E:\LOG`]);
  });

  test('a path of Windows: fixed, on a disk of the VM, and captured', async () => {
    const volume = (said: string): Dialogue =>
      new Dialogue({
        ...{ start: 'up', outOfOrder: 'Get-Volume: no' },
        lines: [{ on: /Get-Volume -FilePath 'D:\\it''s'/, answer: `tm-volume|${said}\r\n` }],
      });
    const look = (said: string, others: string[] = []): Promise<unknown> =>
      unprotectedPaths(volume(said), [String.raw`D:\it's`], others);
    expect(await look('Fixed|SCSI')).toEqual([]);
    expect(await look('Fixed|SATA,NVMe')).toEqual([]);
    for (const said of ['Fixed|iSCSI', 'Fixed|', 'Fixed|SCSI,Storage Spaces', 'Removable|USB'])
      expect(await look(said)).toMatchObject([{ code: 'data-unprotected' }]);
    expect(await look('Fixed|SCSI', ['vdb'])).toMatchObject([{ code: 'data-unprotected' }]);
    expect(await unprotectedPaths(volume(''), [String.raw`\\nas\sql`], [])).toMatchObject([
      { code: 'data-unprotected' },
    ]);
    await expect(unprotectedPaths(volume(''), [String.raw`C:\other`], [])).rejects.toThrow('Get-Volume: no');
  });

  test('settings: with fsfreeze, by the guest agent, without hooks of other systems', () => {
    const vm = (hooks: object[], more: object = {}): unknown => hookedVmSchema.parse({ vm: 'db', hooks, ...more });
    expect(() => vm([{ kind: 'sqlserver' }, { kind: 'fsfreeze' }])).not.toThrow();
    expect(() => vm([{ kind: 'sqlserver' }])).toThrow('needs fsfreeze');
    expect(() => vm([{ kind: 'windows' }, { kind: 'fsfreeze' }, { kind: 'postgresql' }])).toThrow('not for Windows');
    const ssh = { host: 'db', hostKey: 'ssh-ed25519 AAAA', passwordFile: '/p' };
    expect(() => vm([{ kind: 'windows' }, { kind: 'fsfreeze' }], { ssh })).toThrow('not over ssh');
  });
});

describe('a hold of a Windows guest', () => {
  const settings = [{ kind: 'sqlserver' }, { kind: 'fsfreeze' }].map((each) => hookSettingsSchema.parse(each));
  const hold = (dialogue: Dialogue, agent: FreezingAgent): Promise<HoldOutcome<string>> =>
    holdAndMark({
      guests: [{ ...hookStep(dialogue, { agent }), tier: 1, settings, close: () => undefined }],
      ...{ id: 'a1', clock: nodeClock, holdMsMax: 2000, signal: new AbortController().signal },
      ...{ mark: () => agent.state, capturedBytes: () => 0 },
    });

  test('is frozen by VSS at the mark, needs no shell and no dead man, and is proven by its writers', async () => {
    const [dialogue, agent] = [guest('sqlserver'), new FreezingAgent()];
    const { mark, reasons, vms } = await hold(dialogue, agent);
    expect({ mark, reasons }).toEqual({ mark: 'frozen', reasons: [] });
    expect(vms[0]!.verifiedBy).toEqual(['VSS writers stable: SqlServerWriter', '3 thawed = 3 frozen']);
    expect(dialogue.violations).toEqual([]);
  });

  test('that VSS ended after its 10 seconds is crash, in the words of the guest agent', async () => {
    const [dialogue, agent] = [guest('sqlserver'), new FreezingAgent()];
    const call = agent.call.bind(agent);
    let thaws = 0;
    agent.call = async (command) => {
      const answer = await call(command);
      if (command === 'guest-fsfreeze-thaw' && thaws++ === 0)
        throw new TidemarkError(
          'guest-agent',
          "couldn't hold writes: fsfreeze is limited up to 10 seconds: 0x80042314",
        );
      return answer;
    };
    const { reasons } = await hold(dialogue, agent);
    expect(reasons).toMatchObject([{ step: 'release', code: 'guest-agent' }]);
    expect(reasons[0]!.reason).toContain('limited up to 10 seconds');
    expect(agent.state).toBe('thawed');
  });

  test('that an agent left frozen is thawed by the next', async () => {
    const [dialogue, agent] = [guest('sqlserver'), new FreezingAgent()];
    await agent.call('guest-fsfreeze-freeze');
    const left = { ...hookStep(dialogue, { agent }), tier: 1, settings, close: () => undefined };
    const found = await new HeldVm(left, nodeClock, new AbortController().signal).undo();
    expect(found).toEqual(['thawed 3 file systems']);
    expect(dialogue.said).toEqual([]);
  });
});
