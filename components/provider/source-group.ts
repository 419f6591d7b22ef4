/**
 * What is captured at a source, declared at its agent. It holds no data: the journal is the target's. A source that cannot
 * be reached is shown as it was, and forgotten with a warning when it is destroyed; its VMs are never touched.
 */
import { z } from 'zod';
import type { sourceGroupSpecSchema } from '../../agent/src/config/schema-groups.js';
import { canonicalJson } from '../../agent/src/service/same-request.js';
import { isTidemarkError, TidemarkError, type AgentClient, type GroupStatus } from '../agent-client.js';
import { sourceGroupResourceSchema, type SourceGroupInputs } from './appliance-inputs.js';
import { unchanged } from './appliance-certificates.js';
import { isKnown } from './check.js';
import { newOwner, renamed, urnOf } from './owner.js';
import { pause } from './pause.js';
import { PartialFailure, type Call, type ResourceKind } from './resource.js';
import { isUnreachable } from './sites.js';
import { unknown, type Properties } from './values.js';

type Capture = z.input<typeof sourceGroupSpecSchema>;
/** A group that cannot be opened at once may open a moment later; then it is an error to tell. */
const openMs = 12_000;

export const sourceGroup: ResourceKind = {
  token: 'tidemark:index:SourceGroup',
  description: 'What is captured at a source, and where it goes. Its VMs stay as they are when it is destroyed',
  schema: sourceGroupResourceSchema,
  outputs: z.object({
    policyRevision: z.number(),
    captureDiffers: z.boolean().describe('The agent captures otherwise than the program says: an update declares it'),
    owner: z.string().describe('URN of the resource that it belongs to, and a token of its create'),
    stale: z.boolean().describe('The agent could not be asked; the rest is as it was'),
  }),
  check: (inputs, before) =>
    unchanged(sourceGroupResourceSchema, inputs, before, ['name'], 'declare another resource for another group'),
  changes: (urn, { owner, captureDiffers }) =>
    new Map([
      ...(typeof owner === 'string' && urnOf(owner) !== urn ? [['owner', 'update'] as const] : []),
      ...(captureDiffers === true ? [['capture', 'update'] as const] : []),
    ]),

  async create(given, call) {
    if (!isKnown(given)) return { id: '', outputs: { ...given, ...unknownFacts } };
    const inputs = sourceGroupResourceSchema.parse(given);
    const client = call.sites.client(inputs.source);
    const known = await ownDeclaration(client, inputs, call);
    if (call.preview) {
      await call.tell.say('info', planText(inputs));
      return { id: '', outputs: { ...given, ...unknownFacts } };
    }
    const { name } = inputs;
    const owner = newOwner(call.urn);
    const { policyRevision } = await client.declareSourceGroup(name, {
      spec: given['capture'] as Capture,
      owner,
      ...(known === undefined ? {} : { previousOwner: known }),
    });
    const id = `${inputs.source.api.replace(/\/$/, '')}/${name}`;
    const outputs = { ...given, policyRevision, owner, ...settled };
    try {
      await waitUntil(client, inputs, call);
    } catch (error) {
      throw new PartialFailure({ id, outputs }, (error as Error).message);
    }
    return { id, outputs };
  },

  async update(_id, before, given, call) {
    if (!isKnown(given)) return { ...given, ...unknownFacts };
    const inputs = sourceGroupResourceSchema.parse(given);
    const previousOwner = String(before['owner'] ?? '');
    const owner = renamed(previousOwner, call.urn);
    const client = call.sites.client(inputs.source);
    const declared = await client.sourceGroup(inputs.name);
    const same = isSame(declared.spec, inputs.capture);
    const revision = before['policyRevision'];
    // An update of ours that was cut short is not somebody else's change.
    if (!same && typeof revision === 'number' && declared.policyRevision !== revision)
      throw new TidemarkError(
        'stale-revision',
        `This update was computed at policy revision ${revision}, and the source group ${inputs.name} is at ${declared.policyRevision}; nothing was changed.`,
      );
    if (call.preview) return { ...given, policyRevision: same ? declared.policyRevision : unknown, owner, ...settled };
    const { policyRevision } = await client.declareSourceGroup(inputs.name, {
      spec: given['capture'] as Capture,
      ...{ owner, ...(previousOwner === '' ? {} : { previousOwner }) },
      expect: { policyRevision: declared.policyRevision },
    });
    return { ...given, policyRevision, owner, ...settled };
  },

  async read(id, before, given, call) {
    const inputs = sourceGroupResourceSchema.safeParse(given);
    if (given === undefined) return importSource(id, call);
    if (!inputs.success) return { state: { id, outputs: before }, inputs: given };
    try {
      const declared = await call.sites.client(inputs.data.source).sourceGroup(inputs.data.name);
      const { policyRevision } = declared;
      const captureDiffers = !isSame(declared.spec, inputs.data.capture);
      return { state: { id, outputs: { ...before, policyRevision, captureDiffers, stale: false } }, inputs: given };
    } catch (error) {
      if (isTidemarkError(error, 'group-unknown')) return undefined;
      if (!isUnreachable(error)) throw error;
      await call.tell.say('warning', `The last known state is shown: ${error.message} [${error.code}]`);
      return { state: { id, outputs: { ...before, stale: true } }, inputs: given };
    }
  },

  async delete(_id, before, call) {
    const { name, source } = sourceGroupResourceSchema.pick({ name: true, source: true }).parse({
      name: before['name'],
      source: before['source'],
    });
    const owner = String(before['owner'] ?? '');
    try {
      const client = call.sites.client(source);
      const now = (await client.sourceGroup(name)).owner;
      if (now !== null && now !== owner && urnOf(now) === urnOf(owner)) {
        await call.tell.say('info', `Source group ${name} stays: the same resource has declared it anew.`);
        return;
      }
      await client.removeSourceGroup(name, { owner });
    } catch (error) {
      if (isTidemarkError(error, 'group-unknown')) return;
      if (!isUnreachable(error)) throw error;
      await call.tell.say('warning', `Forgotten without asking its agent, which may still capture: ${error.message}`);
    }
  },
};

const settled = { captureDiffers: false, stale: false };
const unknownFacts: Properties = {
  ...{ policyRevision: unknown, captureDiffers: unknown, owner: unknown, stale: unknown },
};

function isSame(a: SourceGroupInputs['capture'], b: SourceGroupInputs['capture']): boolean {
  return canonicalJson(a) === canonicalJson(b);
}

function planText({ name, capture }: SourceGroupInputs): string {
  const what = [...capture.vms.map(({ vm }) => `VM ${vm}`), ...capture.disks.map((disk) => `disk ${disk.name}`)];
  return `captures ${what.join(', ')} as ${name}, sent to ${capture.targets.map(({ peer }) => peer).join(', ')}`;
}

/** The owner of what is there and ours, from a create that was cut short. Refuses what belongs to others. */
async function ownDeclaration(
  client: AgentClient,
  { name }: SourceGroupInputs,
  call: Call,
): Promise<string | undefined> {
  try {
    const { owner, declaredBy } = await client.sourceGroup(name);
    if (declaredBy === 'api' && owner !== null && urnOf(owner) === call.urn) return owner;
    const holder = declaredBy === 'file' ? 'the configuration file of its agent' : (owner ?? 'nobody of Pulumi');
    throw new Error(
      `Source group ${name} exists and belongs to ${urnOf(holder)}. Was the resource renamed? Give it the old name in \`aliases\`. ` +
        'Otherwise take it over with `pulumi import`.',
    );
  } catch (error) {
    if (isTidemarkError(error, 'group-unknown')) return undefined;
    if (call.preview && isUnreachable(error)) return undefined;
    throw error;
  }
}

async function waitUntil(client: AgentClient, inputs: SourceGroupInputs, call: Call): Promise<void> {
  const { name, waitFor, waitSeconds } = inputs;
  if (waitFor === 'declared') return;
  const beganMs = performance.now();
  for (;;) {
    const { opened, problem } = await client.sourceGroup(name);
    const nowMs = performance.now();
    if (opened) {
      const missing = missingOf(await client.group(name), waitFor);
      if (missing === undefined) return;
      call.tell.status(missing);
    } else if (nowMs > beganMs + openMs) throw new TidemarkError('group-not-opened', problem ?? 'It is not opened.');
    if (nowMs > beganMs + waitSeconds * 1000)
      throw new TidemarkError(
        'timed-out',
        `Source group ${name} was not ${waitFor} within ${waitSeconds} s; it goes on.`,
      );
    await pause(250, call.signal);
  }
}

/** What is still waited for; undefined: nothing. */
function missingOf({ links, vms = [], state, syncs }: GroupStatus, waitFor: 'attached' | 'synced'): string | undefined {
  const away = links.filter((link) => link.state !== 'connected').map(({ peer }) => peer);
  if (away.length > 0) return `waiting for ${away.join(', ')}`;
  const refused = vms.find((vm) => vm.state === 'refused');
  if (refused !== undefined && refused.lastError !== null)
    throw new TidemarkError('vm-refused', `VM ${refused.vm}: ${refused.lastError.message}`);
  const open = vms.filter((vm) => !['attached', 'off', 'released', 'held-back'].includes(vm.state));
  if (open.length > 0) return `attaching ${open.map(({ vm }) => vm).join(', ')}`;
  if (waitFor === 'attached' || state === 'protecting') return undefined;
  const [done, total] = syncs.reduce(([a, b], sync) => [a + sync.doneBytes, b + sync.totalBytes], [0, 0]);
  const left = Math.max(0, ...syncs.map(({ secondsLeft }) => secondsLeft ?? 0));
  return total === 0
    ? `first sync (${state})`
    : `first sync ${Math.floor((100 * done) / total)} %, ${Math.ceil(left)} s left`;
}

/** `https://HOST:PORT/GROUP` */
async function importSource(id: string, call: Call) {
  const match = /^(https:\/\/[^/]+)\/([^/]+)$/.exec(id);
  if (match === null) throw new Error(`${id} is no id of a source group; give https://HOST:PORT/GROUP.`);
  const source = { api: match[1]! };
  try {
    const { name, spec, owner, policyRevision } = await call.sites.client(source).sourceGroup(match[2]!);
    const inputs = { name, source, capture: spec };
    return { state: { id, outputs: { ...inputs, policyRevision, owner: owner ?? '', ...settled } }, inputs };
  } catch (error) {
    if (isTidemarkError(error, 'group-unknown')) return undefined;
    throw error;
  }
}
