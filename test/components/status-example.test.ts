import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as pulumi from '@pulumi/pulumi';
import { ApiFixture } from '../support/api-fixture.js';

let fixture: ApiFixture;
let directory: string;

beforeAll(async () => {
  fixture = await ApiFixture.start();
  directory = mkdtempSync(join(tmpdir(), 'tidemark-example-'));
  const pair = await fixture.issue('rita');
  const files = { certificate: pair.certificate, key: pair.key, authority: fixture.authority.certificate };
  pulumi.runtime.setAllConfig({ 'tidemark:api': fixture.url });
  for (const [name, text] of Object.entries(files)) {
    writeFileSync(join(directory, name), text);
    pulumi.runtime.setConfig(`tidemark:${name}`, join(directory, name));
  }
  await pulumi.runtime.setMocks(
    { newResource: ({ inputs }) => ({ id: 'x', state: inputs }), call: ({ inputs }) => inputs },
    'tidemark',
    'test',
  );
});
afterAll(async () => {
  await fixture.stop();
  rmSync(directory, { recursive: true });
});

const shop = { role: 'target', state: 'protecting', epoch: 1, disks: ['data'] };

// status.js is the program, index.js what Pulumi starts: it bundles the program and runs it.
test.each(['status.js', 'index.js'])('the status example (%s) exports the groups that a reader sees', async (name) => {
  const example = (await import(`../../examples/status/${name}`)) as Record<string, pulumi.Output<unknown>>;
  const value = await new Promise((resolve) => pulumi.all([example['agent'], example['groups']]).apply(resolve));
  expect(value).toEqual(['fra/fra-1', { shop, other: shop }]);
});
