/** The ResourceProvider protocol: messages to plain values and back, errors to what the engine understands. */
import grpc from '@grpc/grpc-js';
import any from 'google-protobuf/google/protobuf/any_pb.js';
import empty from 'google-protobuf/google/protobuf/empty_pb.js';
import messages from '@pulumi/pulumi/proto/provider_pb.js';
import type * as pb from '@pulumi/pulumi/proto/provider_pb.js';
import plugin from '@pulumi/pulumi/proto/plugin_pb.js';
import statuses from '@pulumi/pulumi/proto/status_pb.js';
import { isTidemarkError } from '../agent-client.js';
import type { Failure } from './check.js';
import type { Provider } from './provider.js';
import { PartialFailure } from './resource.js';
import { decode, encode } from './values.js';

type Handler<Request, Reply> = (request: Request) => Promise<Reply>;

/** The service's methods by name, as @grpc/grpc-js wants them. */
export function handlers(provider: Provider): grpc.UntypedServiceImplementation {
  const table: grpc.UntypedServiceImplementation = {};
  const on = <Request, Reply>(name: string, handler: Handler<Request, Reply>): void => {
    table[name] = (call: grpc.ServerUnaryCall<Request, unknown>, reply: grpc.sendUnaryData<unknown>) => {
      handler(call.request).then(
        (message) => reply(null, message),
        (error: unknown) => reply(serviceError(error, provider)),
      );
    };
  };
  on('handshake', async (request: pb.ProviderHandshakeRequest) => {
    provider.attach(request.getEngineAddress());
    const reply = new messages.ProviderHandshakeResponse();
    reply.setAcceptSecrets(true);
    return reply;
  });
  on('attach', async (request: { getAddress(): string }) => {
    provider.attach(request.getAddress());
    return new empty.Empty();
  });
  on('getPluginInfo', async () => {
    const reply = new plugin.PluginInfo();
    reply.setVersion(provider.version);
    return reply;
  });
  on('getSchema', async () => {
    const reply = new messages.GetSchemaResponse();
    reply.setSchema(provider.schema());
    return reply;
  });
  on('cancel', async () => {
    provider.cancel();
    return new empty.Empty();
  });
  configuration(provider, on);
  resources(provider, on);
  on('invoke', async (request: pb.InvokeRequest) => {
    const args = decode(request.getArgs());
    const { failures, values } = await provider.invoke(request.getTok(), args);
    const reply = new messages.InvokeResponse();
    reply.setFailuresList(failures.map(checkFailure));
    if (values !== undefined) reply.setReturn(encode(values));
    return reply;
  });
  return table;
}

type On = <Request, Reply>(name: string, handler: Handler<Request, Reply>) => void;

function configuration(provider: Provider, on: On): void {
  on('checkConfig', async (request: pb.CheckRequest) => {
    const news = decode(request.getNews());
    const reply = new messages.CheckResponse();
    reply.setInputs(encode(news.values, news.secrets));
    reply.setFailuresList(provider.checkConfig(news).map(checkFailure));
    return reply;
  });
  on('diffConfig', async (request: pb.DiffRequest) => {
    // A group is not where it is because of how its agent is reached: never a replacement.
    const before = decode(request.getOldInputs() ?? request.getOlds());
    return diffReply(provider.diffConfig(before, decode(request.getNews())));
  });
  on('configure', async (request: pb.ConfigureRequest) => {
    provider.configure(decode(request.getArgs()));
    const reply = new messages.ConfigureResponse();
    reply.setAcceptsecrets(true);
    reply.setSupportspreview(true);
    return reply;
  });
}

function resources(provider: Provider, on: On): void {
  on('check', async (request: pb.CheckRequest) => {
    const news = decode(request.getNews());
    const olds = decode(request.getOlds());
    const reply = new messages.CheckResponse();
    reply.setInputs(encode(news.values, provider.secretInputs(request.getUrn(), news)));
    reply.setFailuresList(provider.check(request.getUrn(), olds, news).map(checkFailure));
    return reply;
  });
  on('diff', async (request: pb.DiffRequest) => {
    const outputs = decode(request.getOlds());
    const before = request.hasOldInputs() ? decode(request.getOldInputs()) : outputs;
    return diffReply(
      provider.diff(
        request.getUrn(),
        { before, outputs, news: decode(request.getNews()) },
        request.getIgnorechangesList(),
      ),
    );
  });
  on('create', async (request: pb.CreateRequest) => {
    const made = await provider.create(
      { urn: request.getUrn(), preview: request.getPreview(), timeoutSeconds: request.getTimeout() },
      decode(request.getProperties()),
    );
    const reply = new messages.CreateResponse();
    // A preview has no id.
    reply.setId(request.getPreview() ? '' : made.id);
    reply.setProperties(made.properties);
    return reply;
  });
  on('update', async (request: pb.UpdateRequest) => {
    const reply = new messages.UpdateResponse();
    reply.setProperties(
      await provider.update(
        { urn: request.getUrn(), preview: request.getPreview(), timeoutSeconds: request.getTimeout() },
        request.getId(),
        decode(request.getOlds()),
        decode(request.getNews()),
      ),
    );
    return reply;
  });
  on('read', async (request: pb.ReadRequest) => {
    const inputs = decode(request.getInputs());
    const found = await provider.read(
      { urn: request.getUrn(), preview: false, timeoutSeconds: request.getTimeout() },
      request.getId(),
      decode(request.getProperties()),
      inputs,
    );
    const reply = new messages.ReadResponse();
    if (found === undefined) return reply;
    reply.setId(found.id);
    reply.setProperties(found.properties);
    reply.setInputs(found.inputs);
    return reply;
  });
  on('delete', async (request: pb.DeleteRequest) => {
    const { urn, timeoutSeconds } = { urn: request.getUrn(), timeoutSeconds: request.getTimeout() };
    await provider.delete({ urn, preview: false, timeoutSeconds }, request.getId(), decode(request.getProperties()));
    return new empty.Empty();
  });
}

function diffReply(changes: ReadonlyMap<string, 'add' | 'delete' | 'update'>): pb.DiffResponse {
  const { ADD, DELETE, UPDATE } = messages.PropertyDiff.Kind;
  const kinds = { add: ADD, delete: DELETE, update: UPDATE };
  const reply = new messages.DiffResponse();
  const { DIFF_SOME, DIFF_NONE } = messages.DiffResponse.DiffChanges;
  reply.setChanges(changes.size > 0 ? DIFF_SOME : DIFF_NONE);
  reply.setDiffsList([...new Set([...changes.keys()].map((path) => /^[^.[]*/.exec(path)![0]))]);
  reply.setHasdetaileddiff(true);
  for (const [path, kind] of changes) {
    const property = new messages.PropertyDiff();
    property.setKind(kinds[kind]);
    property.setInputdiff(true);
    reply.getDetaileddiffMap().set(path, property);
  }
  return reply;
}

function checkFailure({ property, reason }: Failure): pb.CheckFailure {
  const failure = new messages.CheckFailure();
  failure.setProperty(property);
  failure.setReason(reason);
  return failure;
}

/** A partial failure carries its state in the status details, where the engine looks for it. */
function serviceError(error: unknown, provider: Provider): Partial<grpc.ServiceError> {
  const message = provider.redact(describe(error));
  if (!(error instanceof PartialFailure)) return { code: grpc.status.UNKNOWN, details: message };
  const detail = new messages.ErrorResourceInitFailed();
  detail.setId(error.state.id);
  detail.setProperties(encode(error.state.outputs, provider.secretsOf(error)));
  detail.setReasonsList([message]);
  const packed = new any.Any();
  packed.pack(detail.serializeBinary(), 'pulumirpc.ErrorResourceInitFailed');
  const status = new statuses.Status();
  status.setCode(grpc.status.UNKNOWN);
  status.setMessage(message);
  status.addDetails(packed);
  const metadata = new grpc.Metadata();
  metadata.add('grpc-status-details-bin', Buffer.from(status.serializeBinary()));
  return { code: grpc.status.UNKNOWN, details: message, metadata };
}

function describe(error: unknown): string {
  if (isTidemarkError(error)) return `${error.message} [${error.code}] ${error.hint}`;
  return error instanceof Error ? error.message : String(error);
}
