import { describe, expect, test } from '@jest/globals';
import { MemoryStorage, seededRandom } from './journal-memory-storage.js';
import { at, Model, openTest, readCut, type Opened } from './journal-model.js';

const key = Buffer.alloc(32, 7);

async function checkAt(
  { journal }: Opened,
  model: Model,
  sequence: number,
  base: Map<number, Buffer>,
  random: () => number,
): Promise<void> {
  const cut = await journal.cut(at(sequence));
  for (const [disk, bytes] of model.states.get(sequence)!) {
    const found = await readCut(cut, disk, base.get(disk)!, random);
    if (!found.equals(bytes)) throw new Error(`disk ${disk} differs at ${sequence}`);
  }
  cut.release();
}

/** One life after another: append, cut, compact, drop, merge, faults, power loss; every listed checkpoint must be right. */
async function run(seed: number): Promise<{ compactions: number; drops: number; merges: number; poisons: number }> {
  const random = seededRandom(seed);
  const int = (max: number): number => Math.floor(random() * max);
  const storage = new MemoryStorage();
  const model = new Model(random, 1);
  const options = seed % 2 === 0 ? { key } : {};
  const counts = { compactions: 0, drops: 0, merges: 0, poisons: 0 };
  let base = model.states.get(0)!;
  let baseSequence = 0;
  let durable = 0;
  let kept: Set<string> | undefined;
  for (let life = 0; life < 3; life++) {
    const opened = await openTest(storage, random, options);
    const { journal } = opened;
    const found = journal.durable[0]?.sequence ?? 0;
    // Everything dropped: the group knows the position from its manifest.
    const sequence = Math.max(found, baseSequence);
    expect(sequence).toBeGreaterThanOrEqual(durable);
    expect(model.states.has(sequence)).toBe(true);
    model.rewind(sequence);
    let alive = true;
    journal.onPoisoned(() => {
      if (!alive) return;
      counts.poisons++;
      model.rewind(Math.max(journal.durable[0]?.sequence ?? 0, baseSequence));
    });
    journal.onDurable(() => {
      if (alive) durable = journal.durable[0]?.sequence ?? 0;
    });
    for (let step = 0; step < 60; step++) {
      for (const block of model.next()) journal.append(block);
      if (random() < 0.7) await journal.flush().catch(() => undefined);
      if (random() < 0.04) {
        let left = int(3);
        storage.fault = (operation, path) => {
          if (path.endsWith('.seg') && (operation === 'datasync' || operation === 'write') && left-- <= 0) {
            storage.fault = undefined;
            throw new Error('EIO');
          }
        };
        await journal.flush().catch(() => undefined);
      }
      storage.fault = undefined;
      if (random() < 0.15) counts.merges += (await journal.maintain()) ? 1 : 0;
      if (random() < 0.1) {
        await journal.flush().catch(() => undefined);
        const states = [...model.states.keys()].filter((each) => each >= baseSequence && each <= durable);
        const marks = model.marks.filter((mark) => mark.sequence >= baseSequence && mark.sequence <= durable);
        const pick = kept ? marks.filter((mark) => kept!.has(mark.id)).map((mark) => mark.sequence) : states;
        if (pick.length > 0) await checkAt(opened, model, pick[int(pick.length)]!, base, random);
      }
      if (random() < 0.06) {
        await journal.flush().catch(() => undefined);
        const marks = model.marks.filter(
          (mark) => mark.sequence > baseSequence && mark.sequence <= durable && (!kept || kept.has(mark.id)),
        );
        kept = new Set(marks.filter(() => random() < 0.4).map((mark) => mark.id));
        const through = marks.findLast((mark) => kept!.has(mark.id));
        if (through) {
          const old = await journal.cut(at(through.sequence));
          for (const mark of marks) if (mark.sequence > through.sequence) kept.add(mark.id);
          const done = await journal.compact({
            keep: kept,
            through: at(through.sequence),
            segmentCountMax: 6,
            publish: (_removed, publish) => publish().then(() => true),
          });
          if (done) counts.compactions++;
          for (const id of done?.marksRemoved ?? []) expect(kept.has(id)).toBe(false);
          const found = await readCut(old, 1, base.get(1)!, random);
          expect(found.equals(model.states.get(through.sequence)!.get(1)!)).toBe(true);
          old.release();
        }
        // Later marks are made kept as they come.
        for (const mark of model.marks) if (mark.sequence > durable) kept.add(mark.id);
        const names = new Set(journal.marks().map((mark) => mark.mark.id));
        for (const mark of marks)
          if (kept.has(mark.id) && mark.sequence > baseSequence) expect(names).toContain(mark.id);
      }
      if (kept) for (const mark of model.marks) if (mark.sequence > durable) kept.add(mark.id);
      if (random() < 0.04) {
        await journal.flush().catch(() => undefined);
        const marks = model.marks.filter(
          (mark) => mark.sequence > baseSequence && mark.sequence <= durable && (!kept || kept.has(mark.id)),
        );
        const through = marks[int(Math.ceil(marks.length / 2))];
        if (through) {
          await opened.manifest.append({ type: 'promoted', through: at(through.sequence), checkpoint: through.id });
          await journal.dropThrough(at(through.sequence));
          baseSequence = through.sequence;
          base = model.states.get(baseSequence)!;
          counts.drops++;
        }
      }
    }
    await journal.flush().catch(() => undefined);
    const marks = journal.marks().filter((mark) => mark.sequence >= baseSequence);
    for (const mark of marks) {
      if (kept && !kept.has(mark.mark.id)) continue;
      await checkAt(opened, model, mark.sequence, base, random);
    }
    await journal.verify(() => undefined, new AbortController().signal);
    if (random() < 0.5) {
      await journal.close();
      await opened.manifest.close();
    } else {
      // Power loss in the middle of a batch.
      for (let count = int(4); count >= 0; count--) for (const block of model.next()) journal.append(block);
      for (let turns = int(12); turns > 0; turns--) await Promise.resolve();
    }
    alive = false;
    storage.crash(random);
  }
  return counts;
}

describe('journal against a plain model', () => {
  test('60 seeds of lives with faults, compaction, promotion and power loss', async () => {
    const total = { compactions: 0, drops: 0, merges: 0, poisons: 0 };
    for (let seed = 1; seed <= 60; seed++) {
      try {
        const counts = await run(seed);
        for (const name of Object.keys(total) as (keyof typeof total)[]) total[name] += counts[name];
      } catch (error) {
        throw new Error(`seed ${seed}: ${(error as Error).stack}`, { cause: error });
      }
    }
    for (const count of Object.values(total)) expect(count).toBeGreaterThan(20);
  });
});
