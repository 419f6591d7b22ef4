/** The package schema, made from the zod schemas that inputs are checked with: SDKs of every language come from it. */
import type { z } from 'zod';
import { checkpointSchema } from '../../agent/src/service/checkpoint-schemas.js';
import { recoverySpecSchema } from '../../agent/src/service/recovery-spec.js';
import { historySchema, targetGroupSpecSchema } from '../../agent/src/service/group-spec.js';
import type { FunctionKind } from './functions.js';
import { homeSchema, providerConfigSchema, recoveryRequestSchema, siteSchema } from './inputs.js';
import { issuerSchema } from './appliance-inputs.js';
import { sshHostSchema, thisMachineSchema } from '../appliance/open-host.js';
import { sourceGroupSpecSchema } from '../../agent/src/config/schema-groups.js';
import { hooksSchema } from '../../agent/src/hooks/settings.js';
import type { ResourceKind } from './resource.js';
import { Types } from './schema-types.js';

const typeNames = new Map<z.ZodType, string>([
  [siteSchema, 'SiteConnection'],
  [targetGroupSpecSchema, 'GroupPolicy'],
  [historySchema, 'History'],
  [recoverySpecSchema, 'RecoverySettings'],
  [hooksSchema, 'Hooks'],
  [homeSchema, 'Home'],
  [recoveryRequestSchema, 'RecoveryRequest'],
  [checkpointSchema, 'Checkpoint'],
  [thisMachineSchema, 'ThisMachine'],
  [sshHostSchema, 'SshHost'],
  [issuerSchema, 'Issuer'],
  [sourceGroupSpecSchema, 'Capture'],
]);

export function packageSchema(
  version: string,
  resources: readonly ResourceKind[],
  functions: readonly FunctionKind[],
): object {
  const types = new Types(typeNames);
  const config = types.object(providerConfigSchema, 'Provider');
  config.properties['key']!.secret = true;
  return {
    name: 'tidemark',
    displayName: 'Tidemark',
    version,
    description: 'Disaster recovery as code: declare protection, preview the loss, fail over by stack update',
    keywords: ['pulumi', 'tidemark', 'disaster-recovery', 'category/infrastructure'],
    license: 'Apache-2.0',
    meta: { moduleFormat: '(.*)' },
    config: { variables: config.properties, defaults: config.required ?? [] },
    provider: {
      description: 'Who asks the agents. Connects to nothing by itself.',
      inputProperties: config.properties,
    },
    resources: Object.fromEntries(resources.map((kind) => [kind.token, resourceSpec(kind, types)])),
    functions: Object.fromEntries(functions.map((kind) => [kind.token, functionSpec(kind, types)])),
    types: types.specs,
    language: languages,
  };
}

function resourceSpec({ token, schema, outputs, description }: ResourceKind, types: Types): object {
  const name = nameOf(token);
  const inputs = types.object(schema, name);
  const made = types.object(outputs, name, 'output');
  return {
    description,
    inputProperties: inputs.properties,
    requiredInputs: inputs.required ?? [],
    properties: { ...inputs.properties, ...made.properties },
    required: [...new Set([...(inputs.required ?? []), ...(made.required ?? [])])],
  };
}

function functionSpec({ token, description, schema, result }: FunctionKind, types: Types): object {
  const name = nameOf(token);
  return {
    description,
    inputs: types.object(schema, name),
    outputs: types.object(result, `${name}Result`, 'output'),
  };
}

function nameOf(token: string): string {
  const name = token.split(':').at(-1)!;
  return name.charAt(0).toUpperCase() + name.slice(1);
}

const languages = {
  nodejs: { packageName: '@tidemark/pulumi', respectSchemaVersion: true },
  python: { packageName: 'pulumi_tidemark', respectSchemaVersion: true, pyproject: { enabled: true } },
  go: { respectSchemaVersion: true, generateResourceContainerTypes: true },
  csharp: { respectSchemaVersion: true, rootNamespace: 'Tidemark' },
};
