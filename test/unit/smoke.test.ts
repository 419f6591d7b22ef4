import 'reflect-metadata';
import { describe, expect, test } from '@jest/globals';
import { DatabaseSync } from 'node:sqlite';
import { isSea } from 'node:sea';
import { zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { z } from 'zod';
import fastify from 'fastify';
import { X509Certificate } from '@peculiar/x509';
import { Command } from 'commander';
import pc from 'picocolors';
import { errorTable } from '../../agent/src/core/errors.js';
import type { Clock } from '../../agent/src/core/clock.js';

describe('tool chain', () => {
  test('runs on Node 24 with ESM, sqlite, zstd', async () => {
    expect(process.versions.node.split('.')[0]).toBe('24');
    expect(isSea()).toBe(false);
    using db = new DatabaseSync(':memory:');
    expect(db.prepare('select 1 as x').get()).toMatchObject({ x: 1 });
    expect(zstdCompressSync(Buffer.alloc(100)).length).toBeLessThan(100);
    expect(errorTable.gap.retry).toBe(true);
    expect(z.string().safeParse(1).success).toBe(false);
    expect(typeof fastify).toBe('function');
    expect(typeof X509Certificate).toBe('function');
    expect(new Command().name()).toBe('');
    expect(pc.red).toBeDefined();
    expect(import.meta.url).toContain('smoke');
    const c: Clock | undefined = undefined;
    expect(c).toBeUndefined();
    fc.assert(fc.property(fc.integer(), (n) => n === n));
    await Promise.resolve();
  });
});
