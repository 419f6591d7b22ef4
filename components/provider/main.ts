/** `pulumi-resource-tidemark ENGINE`: serves the provider on a free port of loopback and prints the port. */
import grpc from '@grpc/grpc-js';
import services from '@pulumi/pulumi/proto/provider_grpc_pb.js';
import { agentEnrolment, certificateAuthority } from './appliance-certificates.js';
import { targetJournal } from './appliance-journal.js';
import { sitePeering } from './appliance-peering.js';
import { appliance } from './appliance.js';
import { functions } from './functions.js';
import { protectionGroup } from './protection-group.js';
import { Provider } from './provider.js';
import { recoveryDrill } from './recovery-drill.js';
import { packageSchema } from './schema.js';
import { handlers } from './server.js';
import { sourceGroup } from './source-group.js';

declare const __TIDEMARK_PROVIDER_VERSION__: string;

const messageBytesMax = 400 * 1024 * 1024;
const version = __TIDEMARK_PROVIDER_VERSION__;
const resources = [
  ...[protectionGroup, recoveryDrill],
  ...[certificateAuthority, agentEnrolment, targetJournal, appliance, sitePeering, sourceGroup],
];

const provider = new Provider({
  version,
  resources,
  functions,
  schema: () => JSON.stringify(packageSchema(version, resources, functions)),
});
provider.attach(process.argv.slice(2).find((argument) => !argument.startsWith('-')) ?? '');

const server = new grpc.Server({
  'grpc.max_receive_message_length': messageBytesMax,
  'grpc.max_send_message_length': messageBytesMax,
});
server.addService(services.ResourceProviderService, handlers(provider));
server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error !== null) {
    console.error(`pulumi-resource-tidemark: ${error.message}`);
    process.exit(1);
  }
  // The one line that the engine waits for.
  process.stdout.write(`${port}\n`);
});
// An engine that was killed ends nobody: what waits here would wait for ever.
const parent = process.ppid;
setInterval(() => {
  if (process.ppid !== parent) end();
}, 1000).unref();

for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, end);

function end(): void {
  provider.close();
  server.forceShutdown();
  process.exit(0);
}
