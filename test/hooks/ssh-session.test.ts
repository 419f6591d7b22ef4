import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { armDeadMan } from '../../agent/src/hooks/dead-man.js';
import { sshSettingsSchema } from '../../agent/src/hooks/settings.js';
import { SshSession } from '../../agent/src/hooks/ssh-session.js';
import { nodeClock } from '../../agent/src/platform/node-clock.js';
import { Laboratory } from '../support/laboratory.js';
import { keyPair, startSshServer, whyNoSshServer, type SshServer } from '../support/ssh-server.js';
import { waitFor } from '../support/wait.js';

const reason = whyNoSshServer();
const describeSsh = reason === undefined ? describe : describe.skip;

describeSsh(`a guest over SSH${reason === undefined ? '' : ` (skipped: ${reason})`}`, () => {
  let lab: Laboratory;
  let server: SshServer;
  let guest: SshSession;
  const connect = (hostKey: string): SshSession => {
    const { port, user } = server;
    const settings = { host: '127.0.0.1', port, user, hostKey, privateKeyFile: lab.path('user.key') };
    return new SshSession(sshSettingsSchema.parse(settings), nodeClock);
  };

  beforeAll(async () => {
    lab = await Laboratory.open();
    server = await startSshServer(lab, 'guest', keyPair(lab.path('user.key')));
    guest = connect(server.hostKey);
  });
  afterAll(async () => {
    guest?.close();
    await lab?.close();
  });

  test('runs programs with input, environment and odd words; their end is told as it is', async () => {
    const ran = await guest.run(['/bin/sh', '-c', 'cat; echo "$SECRET|$1"; echo oops >&2; exit 3', 'sh', `it's "x"`], {
      ...{ input: 'from outside\n', environment: { SECRET: 'a b$c' }, timeoutMs: 5000 },
    });
    expect(ran).toEqual({ exitCode: 3, stdout: `from outside\na b$c|it's "x"\n`, stderr: 'oops\n' });
  });

  test('one that takes too long is killed there', async () => {
    await expect(guest.run(['sleep', '61'], { timeoutMs: 300 })).rejects.toThrow('took over 300 ms');
    const left = await guest.run(['pgrep', '-f', 'sleep 61$'], { timeoutMs: 5000 });
    expect(left.stdout).toBe('');
  });

  test('a session stays open and answers; the dead man ends it', async () => {
    const session = await guest.open(['/bin/sh'], { timeoutMs: 5000 });
    await session.send('echo $((20 + 3)) >&2');
    expect(await session.expect(/\d+\n/, 5000)).toBe('23\n');
    const deadMan = await armDeadMan(guest, { id: `ssh-${process.pid}`, holdMs: 1000, sessions: [session.pid] });
    await waitFor('the session is killed', async () => !(await session.isOpen()), { timeoutMs: 20_000 });
    await expect(session.send('echo')).rejects.toThrow('has ended');
    expect(await deadMan.cancel()).toBe(false);
    await session.close();
  });

  test('another host key is never trusted', async () => {
    const other = (await lab.processes.run('cat', [`${keyPair(lab.path('other.key'))}.pub`])).split(' ');
    await expect(connect(`${other[0]} ${other[1]}`).run(['true'], { timeoutMs: 5000 })).rejects.toThrow(
      'another host key',
    );
  });
});
