import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';

const config = 'site: fra\nagent: fra-1\ntls: { certificate: a, key: b, authority: c }\ndrainSeconds: 0\n';
const hasNotify = spawnSync('systemd-notify', ['--version']).status === 0;

/** Prints each datagram of the socket as one line. */
const listener = `
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("bound", flush=True)
while True:
    data, ancillary, flags, address = s.recvmsg(4096, 1024)
    print(data.decode().replace("\\n", "|"), flush=True)
`;

describe('the agent as a process', () => {
  let directory: string;
  let bundle: string;
  const children: ChildProcess[] = [];

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'tidemark-process-'));
    bundle = join(process.cwd(), 'dist', 'test', `agent-process-${process.pid}.mjs`);
    await build({
      entryPoints: ['test/support/agent-process-main.ts'],
      bundle: true,
      platform: 'node',
      format: 'esm',
      packages: 'external',
      outfile: bundle,
      logLevel: 'error',
    });
  });
  afterAll(() => {
    for (const child of children) child.kill('SIGKILL');
    rmSync(directory, { recursive: true });
    rmSync(bundle, { force: true });
  });

  interface Started {
    child: ChildProcess;
    text: () => string;
    said: (part: string) => Promise<void>;
    ended: Promise<number | null>;
  }

  function watch(child: ChildProcess, output: 'stdout' | 'stderr'): Started {
    children.push(child);
    let text = '';
    child[output]!.setEncoding('utf8').on('data', (part: string) => (text += part));
    const ended = new Promise<number | null>((resolve) => child.on('close', (code) => resolve(code)));
    const said = async (part: string): Promise<void> => {
      const deadlineMs = Date.now() + 20_000;
      while (!text.includes(part)) {
        if (Date.now() > deadlineMs) throw new Error(`${JSON.stringify(part)} was not said in:\n${text}`);
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
    };
    return { child, text: () => text, said, ended };
  }

  function start(file: string, behaviour = 'run', env: Record<string, string> = {}): Started {
    writeFileSync(file, config);
    return watch(
      spawn(process.execPath, [bundle, file, behaviour], {
        stdio: ['ignore', 'ignore', 'pipe'],
        env: { ...process.env, ...env },
      }),
      'stderr',
    );
  }

  test('SIGTERM drains and ends with 0; the log is JSON with stable fields', async () => {
    const agent = start(join(directory, 'a.yaml'));
    await agent.said('agent-ready');
    agent.child.kill('SIGTERM');
    expect(await agent.ended).toBe(0);
    const lines = agent
      .text()
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.map((line) => line['event'])).toEqual([
      'agent-starting',
      'agent-ready',
      'agent-stopping',
      'drained',
      'agent-stopped',
    ]);
    for (const line of lines)
      expect(line).toMatchObject({
        level: 'info',
        site: 'fra',
        agent: 'fra-1',
        version: 'test',
        time: expect.stringMatching(/Z$/),
      });
  });

  test('a drain that hangs is bounded', async () => {
    const agent = start(join(directory, 'b.yaml'), 'hang');
    await agent.said('agent-ready');
    agent.child.kill('SIGTERM');
    expect(await agent.ended).toBe(0);
    expect(agent.text()).toContain('drain-timed-out');
  });

  test('an unhandled rejection is logged and ends the process', async () => {
    const agent = start(join(directory, 'c.yaml'), 'reject');
    expect(await agent.ended).toBe(1);
    expect(agent.text()).toContain('agent-crashed');
    expect(agent.text()).toContain('nobody handles this');
  });

  test('SIGHUP applies what may change, refuses the rest whole, and no secret is logged', async () => {
    const file = join(directory, 'd.yaml');
    const agent = start(file);
    await agent.said('agent-ready');
    writeFileSync(file, `${config}access: [{ name: a, role: reader }]\n`);
    agent.child.kill('SIGHUP');
    await agent.said('"event":"reloaded","live":["access"]');
    writeFileSync(file, config.replace('site: fra', 'site: ber'));
    agent.child.kill('SIGHUP');
    await agent.said('"event":"reload-refused"');
    writeFileSync(file, 'site: [');
    agent.child.kill('SIGHUP');
    await agent.said('"event":"reload-failed"');
    agent.child.kill('SIGTERM');
    expect(await agent.ended).toBe(0);
    expect(agent.text()).toContain('[secret]');
    expect(agent.text()).not.toContain('hunter2');
  });

  test(`tells systemd: READY, WATCHDOG, STOPPING${hasNotify ? '' : ' (skipped: no systemd-notify here)'}`, async () => {
    if (!hasNotify) return;
    const socket = join(directory, 'notify.sock');
    const manager = watch(
      spawn('python3', ['-c', listener, socket], { stdio: ['ignore', 'pipe', 'inherit'] }),
      'stdout',
    );
    await manager.said('bound');
    const agent = start(join(directory, 'e.yaml'), 'run', { NOTIFY_SOCKET: socket, WATCHDOG_USEC: '400000' });
    await manager.said('READY=1');
    expect(manager.text()).toContain('STATUS=ready as fra/fra-1');
    await manager.said('WATCHDOG=1');
    agent.child.kill('SIGTERM');
    await manager.said('STOPPING=1');
    expect(await agent.ended).toBe(0);
    manager.child.kill();
  });
});

test('the unit starts the agent as it wants to be started', () => {
  const unit = readFileSync('packaging/tidemark-agent.service', 'utf8');
  expect(unit).toMatch(/^Type=notify$/m);
  expect(unit).toMatch(/^NotifyAccess=all$/m);
  expect(unit).toMatch(/^ExecStart=\/\S+\/tidemark agent run --config \/etc\/tidemark\/agent\.yaml$/m);
});
