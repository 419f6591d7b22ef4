import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCli } from '../../agent/src/cli/program.js';
import { renderRpo, rpoSvg } from '../../agent/src/cli/rpo-chart.js';
import { coloursOf, type Terminal } from '../../agent/src/cli/terminal.js';
import { RpoSamples, rpoNow, slotCount, slotMs } from '../../agent/src/runtime/rpo-samples.js';
import type { RpoHistory } from '../../agent/src/service/rpo-schemas.js';
import { ApiFixture } from '../support/api-fixture.js';

const startMs = Date.UTC(2026, 0, 1);
const hourMs = 3_600_000;
const history = (slots: RpoHistory['slots'], checkpointIntervalSeconds = 5): RpoHistory => ({
  ...{ group: 'shop', slotSeconds: slotMs / 1000, checkpointIntervalSeconds, slots },
});
/** An hour: usual, a spike in its middle, a gap at three quarters, none durable at the end. */
const hour = Array.from({ length: 120 }, (_, slot) => ({
  atMs: startMs + slot * slotMs,
  rpoSeconds: slot >= 116 ? null : slot === 60 ? 40 : 4 + (slot % 3),
})).filter((_, slot) => slot < 86 || slot > 95);
const plain = coloursOf({ colours: false });

describe('the RPO over time', () => {
  test('the worst of each slot is kept for a day; none durable is worse than any number', () => {
    const samples = new RpoSamples();
    const note = (atMs: number, rpoSeconds: number | null): void =>
      samples.note(startMs + atMs, [{ name: 'shop', rpoSeconds }]);
    note(0, 3);
    note(10_000, 7.25);
    note(20_000, 1);
    note(slotMs, null);
    note(slotMs + 5000, 2);
    note(3 * slotMs, 0);
    expect(samples.of('shop', 0, startMs + 3 * slotMs)).toEqual([
      { atMs: startMs, rpoSeconds: 7.25 },
      { atMs: startMs + slotMs, rpoSeconds: null },
      { atMs: startMs + 3 * slotMs, rpoSeconds: 0 },
    ]);
    expect(samples.of('shop', startMs + 2 * slotMs, startMs + 3 * slotMs)).toHaveLength(1);
    for (let slot = 0; slot < slotCount + 10; slot++) note(slot * slotMs, 1);
    const all = samples.of('shop', 0, startMs + (slotCount + 9) * slotMs);
    expect(all).toHaveLength(slotCount);
    expect(all[0]!.atMs).toBe(startMs + 10 * slotMs);
    expect(samples.of('other', 0, startMs)).toEqual([]);
    samples.note(startMs, []);
    expect(samples.of('shop', 0, startMs + slotCount * slotMs)).toEqual([]);
  });

  test('source groups come before histories of the same name', () => {
    const source = { status: () => ({ name: 'a', rpoSeconds: 2 }) };
    const target = (name: string, ms?: number): object => ({ name, rpoMs: () => ms });
    const sources = { list: () => [source], find: (name: string) => (name === 'a' ? source : undefined) };
    const targets = { list: () => [target('a', 9000), target('b', 1500), target('c')] };
    expect(rpoNow(sources as never, targets as never)).toEqual([
      { name: 'a', rpoSeconds: 2 },
      { name: 'b', rpoSeconds: 1.5 },
      { name: 'c', rpoSeconds: null },
    ]);
  });

  test('the picture fits 80 columns and shows spike, gap, and no durable checkpoint', () => {
    const text = renderRpo({ history: history(hour), fromMs: startMs, toMs: startMs + hourMs }, plain);
    const lines = text.split('\n');
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(80);
    expect(lines[0]).toMatch(/^ +40 s .*█ +×+$/);
    expect(lines[7]).toMatch(/^ +0 .*█+·+[▁-█]+$/);
    expect(text).toContain('worst 40 s; checkpoints every 5.0 s');
    expect(text).toContain('× without a durable checkpoint: 2 min 0 s');
    expect(text).not.toContain('\u001b');
    const coloured = renderRpo(
      { history: history(hour), fromMs: startMs, toMs: startMs + hourMs },
      coloursOf({ colours: true }),
    );
    expect(coloured).toContain('\u001b[33m█');
    expect(coloured).toContain('\u001b[31m×');
  });

  test('a few slots in a short time, and none at all', () => {
    const few = renderRpo({ history: history(hour.slice(0, 2)), fromMs: startMs, toMs: startMs + 2 * slotMs }, plain);
    expect(few.split('\n')[7]).toMatch(/^ +0 [▁-█]{69}$/);
    const never = [{ atMs: startMs, rpoSeconds: null }];
    expect(renderRpo({ history: history(never), fromMs: startMs, toMs: startMs + hourMs }, plain)).toContain(
      'no durable checkpoint',
    );
    expect(renderRpo({ history: history([]), fromMs: startMs, toMs: startMs + hourMs }, plain)).toMatch(/nothing/);
  });

  test('as SVG: well formed, of fixed size, with nothing to load', () => {
    const svg = rpoSvg({ history: { ...history(hour), group: 'a<b&c' }, fromMs: startMs, toMs: startMs + hourMs });
    expect(svg).toMatch(/^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg" width="960"[^]*<\/svg>\n$/);
    expect(svg).toContain('a&lt;b&amp;c');
    expect(svg).not.toMatch(/NaN|Infinity|undefined|href|script/);
    expect(svg.match(/<rect /g)!.length).toBeLessThan(900);
  });
});

describe('tidemark rpo', () => {
  let fixture: ApiFixture;
  let directory: string;
  const tidemark = async (...args: string[]): Promise<{ code: number; out: string; err: string }> => {
    const run = { code: -1, out: '', err: '' };
    const terminal: Terminal = {
      out: (text) => void (run.out += text),
      err: (text) => void (run.err += text),
      ...{ isTerminal: false, colours: false, env: { TIDEMARK_CONTEXT: join(directory, 'alice.yaml') } },
      ...{ nowMs: () => startMs + hourMs, signal: new AbortController().signal },
    };
    run.code = await runCli(args, { terminal, version: '1.2.3', runAgent: () => Promise.resolve() });
    return run;
  };

  beforeAll(async () => {
    fixture = await ApiFixture.start();
    fixture.service.rpoSlots = hour;
    directory = mkdtempSync(join(tmpdir(), 'tidemark-rpo-'));
    const pair = await fixture.issue('alice');
    writeFileSync(join(directory, 'ca.crt'), fixture.authority.certificate);
    writeFileSync(join(directory, 'alice.crt'), pair.certificate);
    writeFileSync(join(directory, 'alice.key'), pair.key);
    const files = 'certificate: alice.crt\nkey: alice.key\nauthority: ca.crt\n';
    writeFileSync(join(directory, 'alice.yaml'), `api: ${fixture.url}\n${files}`);
  });
  afterAll(async () => {
    await fixture.stop();
    rmSync(directory, { recursive: true });
  });

  test('draws, writes SVG, and gives the numbers', async () => {
    const file = join(directory, 'rpo.svg');
    const drawn = await tidemark('rpo', 'shop', '--svg', file);
    expect(drawn).toMatchObject({ code: 0, err: '' });
    expect(drawn.out).toMatch(/^shop\n +40 s/);
    expect(readFileSync(file, 'utf8')).toContain('RPO of shop.');
    const json = await tidemark('rpo', 'shop', '--from', '-10m', '--json');
    const { slots } = JSON.parse(json.out) as RpoHistory;
    expect(slots.length).toBeGreaterThan(10);
    expect(slots.length).toBeLessThan(25);
  });

  test('refuses what is not known, in the future, or cannot be written', async () => {
    expect((await tidemark('rpo', 'nobody')).err).toContain('no group nobody');
    expect((await tidemark('rpo', 'shop', '--from', 'latest')).err).toContain('--from is a time');
    expect((await tidemark('rpo', 'shop', '--from', '2027-01-01T00:00:00Z')).err).toContain('in the past');
    const file = join(directory, 'not', 'there.svg');
    expect((await tidemark('rpo', 'shop', '--svg', file)).err).toContain('--svg: ENOENT');
    expect(existsSync(file)).toBe(false);
  });
});
