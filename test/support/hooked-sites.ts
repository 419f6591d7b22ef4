/**
 * The two VMs of two-tier-sites.ts with hooks: fsfreeze in both, PostgreSQL in the database, the client's tier first.
 * With `drained` the client is drained by a hook `command` before.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { z } from 'zod';
import type { Checkpoint } from '../../agent/src/service/checkpoint-schemas.js';
import { guestExec } from './guest-agent.js';
import { waitApplication } from './two-tier.js';
import { TwoTierSites } from './two-tier-sites.js';

export const holdSecondsMax = 8;

/** While /run/slow is there the note of the hold is not written: the tiers before are held that long. */
const slowPsql = `#!/bin/sh
sql=$(cat)
case $sql in *pg_logical_emit_message*) [ ! -e /run/slow ] || sleep 60 ;; esac
echo "$sql" | exec /opt/postgresql/psql "$@"
`;

/** While /run/drain is there the client begins no commit; with /run/undrained it is not asked to. */
const drain = {
  kind: 'command',
  quiesce: [
    '/bin/sh',
    '-c',
    '[ -e /run/undrained ] || { rm -f /run/drained; touch /run/drain; until [ -e /run/drained ]; do sleep 0.05; done; }',
  ],
  release: ['rm', '-f', '/run/drain'],
  releaseAfterSeconds: holdSecondsMax + 6,
};

/** Of both VMs, or of some. */
export const hooks = ({ drained = false, vms = ['client', 'db'] }): object => ({
  holdSecondsMax,
  vms: [
    { vm: 'client', tier: 1, hooks: [...(drained ? [drain] : []), { kind: 'fsfreeze' }] },
    { vm: 'db', tier: 2, hooks: [{ kind: 'postgresql', host: '/run', psql: '/run/psql' }, { kind: 'fsfreeze' }] },
  ].filter(({ vm }) => vms.includes(vm)),
});

/** Both VMs run, are protected, and have hooks. */
export async function bootHookedSites({ drained = false } = {}): Promise<TwoTierSites> {
  const sites = await TwoTierSites.boot();
  try {
    const { source, here } = sites;
    const config = JSON.parse(readFileSync(source.configFile, 'utf8')) as { sourceGroups: { hooks?: object }[] };
    config.sourceGroups[0]!.hooks = hooks({ drained });
    writeFileSync(source.configFile, JSON.stringify(config));
    await waitApplication(here.virsh);
    const script = `cat >/run/psql <<'END'\n${slowPsql}END\nchmod 755 /run/psql`;
    await guestExec(here.virsh, 'db', ['/bin/sh', '-c', script]);
    await sites.protect();
    await sites.waitProtecting();
    return sites;
  } catch (error) {
    await sites[Symbol.asyncDispose]();
    throw error;
  }
}

const holdSchema = z.object({
  proven: z.boolean(),
  heldFromMs: z.number(),
  holdMs: z.number(),
  markUs: z.number(),
  thawMs: z.number().nullable(),
  flushedBytes: z.number(),
  vms: z.array(
    z.object({
      vm: z.string(),
      prepareMs: z.number(),
      quiesceMs: z.number(),
      holdMs: z.number(),
      verifiedBy: z.array(z.string()),
      facts: z.record(z.string(), z.unknown()),
    }),
  ),
  agents: z.array(z.string()).optional(),
  reasons: z.array(z.object({ vm: z.string(), step: z.string(), code: z.string(), reason: z.string() })).default([]),
});
export type Hold = z.infer<typeof holdSchema>;

/** What an application checkpoint recorded of its hold. */
export function holdOf({ attributes }: Checkpoint): Hold {
  return holdSchema.parse(attributes['application']);
}
