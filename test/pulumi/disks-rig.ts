/** Two real agents, and a Pulumi project whose one group is of disks alone. */
import { join } from 'node:path';
import { mkdirSync } from 'node:fs';
import type { AgentHandle } from '../support/agent-handle.js';
import { operatorName } from '../support/agent-handle.js';
import { Laboratory } from '../support/laboratory.js';
import { PulumiProject, pulumiTools } from '../support/pulumi-project.js';
import { makeSparseFile } from '../support/tools.js';
import { waitFor } from '../support/wait.js';

const MiB = 1024 * 1024;
export const diskBytes = 8 * MiB;

export interface DisksRig extends AsyncDisposable {
  readonly lab: Laboratory;
  /** Not started: it would find no group yet, and wait long until it asks again. */
  readonly source: AgentHandle;
  readonly target: AgentHandle;
  readonly project: PulumiProject;
  /** Writes the program: the group `shop` with these inputs over the usual ones. */
  declare(inputs?: Readonly<Record<string, unknown>>, more?: Program): void;
  /** Resolves when a complete checkpoint is durable. */
  waitProtecting(): Promise<void>;
}

export interface Program {
  readonly resources?: Readonly<Record<string, unknown>>;
  readonly outputs?: Readonly<Record<string, unknown>>;
  readonly variables?: Readonly<Record<string, unknown>>;
  /** Of the group. */
  readonly options?: Readonly<Record<string, unknown>>;
  /** Name of the group's resource. Default `shop`. */
  readonly resource?: string;
}

export function policy(more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  return {
    streams: ['source'],
    disks: [{ name: 'data', sizeBytes: diskBytes, stream: 'source' }],
    checkpointIntervalSeconds: 1,
    ...more,
  };
}

export async function startDisksRig(): Promise<DisksRig> {
  pulumiTools();
  const lab = await Laboratory.open();
  try {
    const target = await lab.startAgent('target', { peers: [{ name: 'source' }] });
    const file = makeSparseFile(lab.path('data.raw'), diskBytes);
    const source = await lab.prepareAgent('source', {
      peers: [{ name: 'target', address: target.addresses.stream }],
      sourceGroups: [
        {
          name: 'shop',
          targets: [{ peer: 'target' }],
          checkpointIntervalSeconds: 1,
          disks: [
            { kind: 'in-path', name: 'data', file, sizeBytes: diskBytes, upstream: undefined, exportName: undefined },
          ],
        },
      ],
    });
    const project = await openProject(lab, 'program', { runtime: 'yaml' });
    const declare: DisksRig['declare'] = (inputs = {}, { resource = 'shop', options, ...more } = {}) =>
      project.program({
        runtime: 'yaml',
        ...more,
        resources: {
          [resource]: {
            type: 'tidemark:ProtectionGroup',
            properties: {
              name: 'shop',
              target: { api: `https://${target.addresses.api}` },
              policy: policy(),
              ...inputs,
            },
            ...(options === undefined ? {} : { options }),
          },
          ...more.resources,
        },
      });
    declare();
    const waitProtecting = async (): Promise<void> => {
      const durable = async (): Promise<boolean> => (await target.client.group('shop')).newestCheckpoint !== null;
      await waitFor('a checkpoint of shop', durable, { timeoutMs: 120_000, everyMs: 100 });
    };
    return { lab, source, target, project, declare, waitProtecting, [Symbol.asyncDispose]: () => lab.close() };
  } catch (error) {
    await lab.close();
    throw error;
  }
}

/** A project of the laboratory whose provider is the laboratory's operator. */
export async function openProject(
  lab: Laboratory,
  name: string,
  program: Readonly<Record<string, unknown>>,
): Promise<PulumiProject> {
  const directory = lab.path(name, 'x').slice(0, -2);
  mkdirSync(directory, { recursive: true });
  const pki = (file: string): string => join(lab.pkiDirectory, file);
  return PulumiProject.open({
    directory,
    program,
    config: {
      'tidemark:certificate': pki(`${operatorName}.crt`),
      'tidemark:key': pki(`${operatorName}.key`),
      'tidemark:authority': pki('ca.crt'),
    },
  });
}
