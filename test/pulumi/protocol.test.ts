/** The provider process by a gRPC client: what it answers, and what it never says. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import grpc from '@grpc/grpc-js';
import empty from 'google-protobuf/google/protobuf/empty_pb.js';
import services from '@pulumi/pulumi/proto/provider_grpc_pb.js';
import messages from '@pulumi/pulumi/proto/provider_pb.js';
import type * as pb from '@pulumi/pulumi/proto/provider_pb.js';
import { decode, encode, unknown, type Properties } from '../../components/provider/values.js';
import { ApiFixture } from '../support/api-fixture.js';
import { buildProvider, providerDirectory } from '../support/pulumi-project.js';

const urn = 'urn:pulumi:dev::demo::tidemark:index:ProtectionGroup::shop';
let provider: ChildProcess;
let client: InstanceType<typeof services.ResourceProviderClient>;
let fixture: ApiFixture;

beforeAll(async () => {
  buildProvider();
  fixture = await ApiFixture.start();
  provider = spawn(process.execPath, [join(providerDirectory(), 'pulumi-resource-tidemark')], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [port] = (await once(provider.stdout!, 'data')) as [Buffer];
  const address = `127.0.0.1:${String(port).trim()}`;
  client = new services.ResourceProviderClient(address, grpc.credentials.createInsecure());
});
afterAll(async () => {
  client?.close();
  const ended = once(provider, 'exit');
  provider.kill('SIGTERM');
  expect(await ended).toEqual([0, null]);
  await fixture.stop();
});

/** One call; rejects with the gRPC error. */
function call<Request, Reply>(method: string, request: Request): Promise<Reply> {
  const methods = client as unknown as Record<
    string,
    (request: Request, done: (error: Error | null, reply: Reply) => void) => void
  >;
  return new Promise((resolve, reject) =>
    methods[method]!.call(client, request, (error: Error | null, reply: Reply) =>
      error ? reject(error) : resolve(reply),
    ),
  );
}

const policy = {
  streams: ['src-1'],
  disks: [{ name: 'data', sizeBytes: '1GiB', stream: 'src-1' }],
};
const group = (more: Properties = {}): Properties => ({
  name: 'shop',
  target: { api: fixture.url },
  policy,
  ...more,
});

async function check(news: Properties, olds: Properties = {}): Promise<Record<string, string>> {
  const request = new messages.CheckRequest();
  request.setUrn(urn);
  request.setOlds(encode(olds));
  request.setNews(encode(news));
  const reply = await call<pb.CheckRequest, pb.CheckResponse>('check', request);
  return Object.fromEntries(reply.getFailuresList().map((failure) => [failure.getProperty(), failure.getReason()]));
}

async function diff(before: Properties, news: Properties, outputs: Properties = before): Promise<pb.DiffResponse> {
  const request = new messages.DiffRequest();
  request.setUrn(urn);
  request.setOldInputs(encode(before));
  request.setOlds(encode(outputs));
  request.setNews(encode(news));
  return call('diff', request);
}

describe('configuration', () => {
  test('configure connects to nothing and promises previews and secrets', async () => {
    const request = new messages.ConfigureRequest();
    request.setArgs(
      encode({ certificate: '/nowhere.crt', key: '/nowhere.key', authority: '/nowhere.pem', version: '1.0.0' }),
    );
    const reply = await call<pb.ConfigureRequest, pb.ConfigureResponse>('configure', request);
    expect([reply.getSupportspreview(), reply.getAcceptsecrets()]).toEqual([true, true]);
  });

  test('another configuration of the provider never replaces it', async () => {
    const request = new messages.DiffRequest();
    request.setOlds(encode({ certificate: 'a', key: 'b', authority: 'c' }));
    request.setNews(encode({ certificate: 'd', key: 'b', authority: 'c' }));
    const reply = await call<pb.DiffRequest, pb.DiffResponse>('diffConfig', request);
    expect([reply.getDiffsList(), reply.getReplacesList()]).toEqual([['certificate'], []]);
  });

  test('what is missing is named', async () => {
    const request = new messages.CheckRequest();
    const failuresOf = async (config: object): Promise<string[]> => {
      request.setNews(encode({ ...config }));
      const reply = await call<pb.CheckRequest, pb.CheckResponse>('checkConfig', request);
      return reply.getFailuresList().map((failure) => failure.getProperty());
    };
    expect(await failuresOf({ key: 'b' })).toEqual(['certificate', 'authority']);
    expect(await failuresOf({ key: 'b', colour: 'red' })).toEqual(['colour', 'certificate', 'authority']);
    expect(await failuresOf({})).toEqual([]);
  });
});

describe('check', () => {
  test('a good one has no failures, every wrong property is named', async () => {
    expect(await check(group())).toEqual({});
    const failures = await check(
      group({
        policy: { ...policy, disks: [], history: { windowSeconds: 1 }, extra: 1 },
        recovery: { request: '', action: 'x' },
      }),
    );
    expect(Object.keys(failures).sort()).toEqual([
      ...['policy.disks', 'policy.extra', 'policy.history.windowSeconds'],
      ...['recovery.action', 'recovery.request'],
    ]);
  });

  test('what is unknown before the update is no failure, what stands beside it is', async () => {
    const disks = [{ name: unknown, sizeBytes: 7, stream: 'src-1' }];
    expect(Object.keys(await check(group({ target: { api: unknown }, policy: { ...policy, disks } })))).toEqual([
      'policy.disks[0].sizeBytes',
    ]);
  });

  test('another name is another group', async () => {
    expect(await check(group({ name: 'web' }), group())).toEqual({ name: expect.stringContaining('never replaced') });
  });
});

describe('diff', () => {
  test('the same in other words is no change', async () => {
    const words = group({
      policy: { ...policy, disks: [{ ...policy.disks[0], sizeBytes: 1024 ** 3 }], newDisks: 'accept' },
    });
    expect((await diff(group(), words)).getChanges()).toBe(messages.DiffResponse.DiffChanges.DIFF_NONE);
  });

  test('changes are told one by one, and nothing is ever replaced', async () => {
    const changed = group({
      target: { api: 'https://elsewhere:1' },
      policy: { ...policy, streams: ['src-2'], history: { windowSeconds: 60 } },
    });
    const reply = await diff(group(), changed);
    const paths: string[] = [];
    reply.getDetaileddiffMap().forEach((_kind, path) => paths.push(path));
    expect(paths.sort()).toEqual(['policy.history', 'policy.streams[0]', 'target.api']);
    expect(reply.getReplacesList()).toEqual([]);
    expect(reply.getDeletebeforereplace()).toBe(false);
  });

  test('a group that is owned under another URN is an update', async () => {
    const reply = await diff(group(), group(), { ...group(), owner: `${urn}-old#00000000` });
    expect(reply.getDiffsList()).toEqual(['owner']);
  });
});

test('a preview with unknowns changes nothing and predicts nothing it cannot know', async () => {
  const request = new messages.CreateRequest();
  request.setUrn(urn);
  request.setPreview(true);
  request.setProperties(encode(group({ target: { api: unknown } })));
  const reply = await call<pb.CreateRequest, pb.CreateResponse>('create', request);
  const { values } = decode(reply.getProperties());
  expect(values).toMatchObject({ name: 'shop', activeSite: unknown, state: unknown, addresses: unknown });
});

test('the schema names every resource, function and type once', async () => {
  const reply = await call<pb.GetSchemaRequest, pb.GetSchemaResponse>('getSchema', new messages.GetSchemaRequest());
  const schema = JSON.parse(reply.getSchema()) as Record<string, Record<string, unknown>>;
  const names = ['ProtectionGroup', 'RecoveryDrill', 'CertificateAuthority', 'AgentEnrolment', 'TargetJournal'];
  expect(Object.keys(schema['resources']!)).toEqual(
    [...names, 'Appliance', 'SitePeering', 'SourceGroup'].map((name) => `tidemark:index:${name}`),
  );
  expect(Object.keys(schema['functions']!)).toHaveLength(3);
  const references = new Set(reply.getSchema().match(/#\/types\/[\w:]+/g));
  for (const reference of references)
    expect(Object.keys(schema['types']!)).toContain(reference.slice('#/types/'.length));
});

test('values go through the protocol and back with their secrets', () => {
  const values = { a: 'x', list: [1, { b: 'deep' }], none: undefined, later: unknown, map: { 'odd.key': true } };
  const secrets = new Set([JSON.stringify(['list', 1, 'b']), JSON.stringify(['a'])]);
  const back = decode(encode(values, secrets));
  expect(back.values).toEqual({ a: 'x', list: [1, { b: 'deep' }], later: unknown, map: { 'odd.key': true } });
  expect([...back.secrets].sort()).toEqual([...secrets].sort());
});

test('cancel ends what waits', async () => {
  expect(await call('cancel', new empty.Empty())).toBeDefined();
});
