/**
 * Application checkpoints of one real VM with MariaDB and Redis, both under load. What was acknowledged is kept outside of the
 * VM, with this host's clock. Then the agent is killed while it holds them.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import type { Commit } from '../support/commit-log.js';
import { guestExec } from '../support/guest-agent.js';
import { holdOf } from '../support/hooked-sites.js';
import { NumberLog } from '../support/number-log.js';
import { slowRedisCli, sqlAddress, sqlGroup, sqlHoldSecondsMax, SqlSite } from '../support/sql-site.js';
import { whyNoVms } from '../support/vm-host.js';
import { waitFor } from '../support/wait.js';
import { seconds, tell } from './tell.js';

const reason = whyNoVms();
const describeVms = reason === undefined ? describe : describe.skip;

/** What is wrong with a point: it must have what was acknowledged before, and nothing that was sent after. */
function compare(
  commits: readonly Commit[],
  present: ReadonlySet<number>,
  fromMs: number,
  toMs: number,
): { missing: number[]; tooLate: number[]; some: boolean } {
  const before = commits.filter(({ acknowledgedMs }) => acknowledgedMs < fromMs).map(({ number }) => number);
  const after = commits.filter(({ sentMs }) => sentMs > toMs).map(({ number }) => number);
  return {
    missing: before.filter((number) => !present.has(number)),
    tooLate: after.filter((number) => present.has(number)),
    some: before.length > 0,
  };
}
const whole = { missing: [], tooLate: [], some: true };

describeVms(
  `application checkpoints of MariaDB and Redis${reason === undefined ? '' : ` (skipped: ${reason})`}`,
  () => {
    let site: SqlSite;
    let mariadb: NumberLog;
    let redis: NumberLog;
    const inGuest = (script: string): Promise<string> => guestExec(site.here.virsh, 'sql', ['/bin/sh', '-c', script]);
    const inSql = (sql: string): Promise<string> =>
      inGuest(`/data/program/mariadb --socket=/run/mysqld.sock --batch --skip-column-names --execute='${sql}'`);
    const dirtyLimit = async (): Promise<number> => Number(await inSql('SELECT @@GLOBAL.innodb_max_dirty_pages_pct'));

    beforeAll(async () => {
      site = await SqlSite.boot();
      await waitFor('both run', () => inGuest('[ -S /run/mysqld.sock ] && /data/program/redis-cli ping'), {
        timeoutMs: 120_000,
      });
      await inGuest(`cat >/run/redis-cli <<'END'\n${slowRedisCli}END\nchmod 755 /run/redis-cli`);
      mariadb = await NumberLog.mariadb(site.lab, site.image, sqlAddress);
      redis = await NumberLog.redis(sqlAddress);
      await site.waitProtecting();
    }, 900_000);
    afterAll(async () => {
      await Promise.allSettled([mariadb?.stop(), redis?.stop()]);
      await site?.[Symbol.asyncDispose]();
    }, 60_000);

    const more = (log: NumberLog, count: number): Promise<unknown> => {
      const enough = log.acknowledged + count;
      return waitFor('numbers in between', () => log.acknowledged >= enough, { timeoutMs: 60_000 });
    };

    test('nothing acknowledged before the hold is missing, nothing sent after it is there; little to replay', async () => {
      const taken: Checkpoint[] = [];
      for (let count = 0; count < 2; count++) {
        await more(mariadb, 100);
        await more(redis, 20);
        taken.push(await site.take());
      }
      await more(mariadb, 5);
      await more(redis, 5);
      const { checkpoints } = await site.target.client.checkpoints(sqlGroup, { complete: true, limit: 1000 });
      const redo: number[] = [];
      const crashRedo: number[] = [];
      for (const [index, checkpoint] of taken.entries()) {
        const hold = holdOf(checkpoint);
        expect({ kind: checkpoint.kind, reasons: hold.reasons }).toEqual({ kind: 'application', reasons: [] });
        const { heldFromMs, holdMs, markUs, thawMs } = hold;
        const inside = await site.lookInto(`hold-${index}`, checkpoint.id);
        for (const [log, present] of [
          [mariadb, inside.mariadb],
          [redis, inside.redis],
        ] as const)
          expect(compare(log.commits, present, heldFromMs, heldFromMs + holdMs)).toEqual(whole);
        expect({ journals: inside.journalsReplayed, wasCut: inside.wasCut }).toEqual({ journals: 0, wasCut: false });
        redo.push(inside.redoBytes);
        const { mariadbStartMs, redisStartMs } = inside;
        tell(
          `MariaDB and Redis held ${holdMs} ms, reply to thaw ${thawMs} ms, marked in ${markUs} us; prepared in ${hold.vms[0]!.prepareMs} ms; ` +
            `redo ${inside.redoBytes} bytes, started in ${mariadbStartMs} and ${redisStartMs} ms; ${hold.vms[0]!.verifiedBy.join(', ')}`,
        );
        if (index === 0) continue;
        // The last one before the dirty pages were driven down.
        const crash = checkpoints
          .filter(({ sourceTimeMs }) => sourceTimeMs < heldFromMs - hold.vms[0]!.prepareMs)
          .sort((one, other) => other.sourceTimeMs - one.sourceTimeMs)[0]!;
        const crashed = await site.lookInto(`crash-${index}`, crash.id);
        expect(crashed.journalsReplayed).toBeGreaterThan(0);
        // As after a loss of power: MariaDB flushes each commit, Redis each second.
        expect(compare(mariadb.commits, crashed.mariadb, crash.sourceTimeMs - 2000, Infinity).missing).toEqual([]);
        crashRedo.push(crashed.redoBytes);
        tell(
          `crash: redo ${crashed.redoBytes} bytes, started in ${crashed.mariadbStartMs} and ${crashed.redisStartMs} ms`,
        );
      }
      expect(await dirtyLimit()).toBe(90);
      expect(Math.max(...redo)).toBeLessThan(1024 * 1024);
      expect(Math.max(...redo.slice(1))).toBeLessThan(Math.min(...crashRedo));
    }, 300_000);

    test('the agent is killed while it holds MariaDB: the guest lets go, and the next agent makes good points again', async () => {
      const { source } = site;
      await inGuest('touch /run/slow');
      const asked = site.take().catch((error: unknown) => error);
      await waitFor('commits wait', () => Date.now() - mariadb.commits.at(-1)!.acknowledgedMs > 1000, {
        timeoutMs: 60_000,
      });
      const killedMs = performance.now();
      const count = mariadb.acknowledged;
      await source.kill();
      await waitFor('commits go on', () => mariadb.acknowledged > count + 1, {
        timeoutMs: (sqlHoldSecondsMax + 5) * 1000 + 15_000,
      });
      tell(`kill -9 of the agent: MariaDB's commits went on after ${seconds(performance.now() - killedMs)} s`);
      await asked;
      // As if it had been killed a moment before, while dirty pages were driven down.
      await inSql('SET GLOBAL innodb_max_dirty_pages_pct = @@GLOBAL.innodb_max_dirty_pages_pct / 1000000');
      await inGuest('rm /run/slow');
      await source.start();
      await site.waitProtecting();
      await waitFor('the limit is restored', async () => (await dirtyLimit()) === 90, { timeoutMs: 60_000 });
      const checkpoint = await site.take();
      expect({ kind: checkpoint.kind, reasons: holdOf(checkpoint).reasons }).toEqual({
        kind: 'application',
        reasons: [],
      });
    }, 180_000);
  },
);
