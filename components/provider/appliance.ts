/**
 * An appliance: the agent on a host, kept running. Changed in place, with what was there as the way back; its data outlives
 * it. A host that cannot be reached is shown as it was, and forgotten with a warning when it is destroyed.
 */
import { z } from 'zod';
import { AgentClient, isTidemarkError, TidemarkError, type GroupStatus } from '../agent-client.js';
import { readBundle } from '../appliance/bundle.js';
import { inspect, install, uninstall } from '../appliance/install.js';
import { liveFiles, refuseDeletion, refuseLive } from '../appliance/live-files.js';
import { paths, type Generation, type Marker, type ServicePlace } from '../appliance/layout.js';
import { addressOf, identityOf, openHost } from '../appliance/open-host.js';
import { hostChanged, hostGone } from './appliance-hosts.js';
import { applianceSchema, type ApplianceInputs } from './appliance-inputs.js';
import { unchanged } from './appliance-certificates.js';
import { isKnown } from './check.js';
import { newOwner, renamed, urnOf } from './owner.js';
import { pause } from './pause.js';
import { PartialFailure, type Call, type ResourceKind } from './resource.js';
import { isUnreachable } from './sites.js';
import { unknown, type Properties } from './values.js';

const deadWithViews = 'does not answer, and has views that VMs may run on';
const openViews = 'Start it, and roll back, commit or close what is open; or delete the files by hand.';
const fixed = ['site', 'agent', 'directory', 'dataDirectory'] as const;
const why = 'an appliance keeps its name and place; declare another one';

export const appliance: ResourceKind = {
  token: 'tidemark:index:Appliance',
  description: 'The agent on a host: this machine, or an existing Linux host over SSH. Upgraded in place',
  schema: applianceSchema,
  outputs: z.object({
    api: z.string().describe('Its control API, https://HOST:PORT'),
    stream: z.string().describe('Where its peers send to, HOST:PORT'),
    version: z.string().describe('Of the agent that runs'),
    bundleSha256: z.string().describe('Of the executable that was copied'),
    owner: z.string().describe('URN of the resource that it belongs to, and a token of its create'),
    stale: z.boolean().describe('The host could not be asked; the rest is as it was'),
  }),
  check: (inputs, before) => [
    ...unchanged(applianceSchema, inputs, before, fixed, why),
    ...hostChanged(inputs, before),
  ],

  /** The executable is another one than was copied, or the resource has another name. */
  changes: (urn, { bundle, bundleSha256, owner }) => {
    const file = typeof bundle === 'string' ? bundle : undefined;
    // One that is not on this machine says nothing.
    const now = bundleHash(file);
    const changed = now !== undefined && now !== bundleSha256;
    const moved = typeof owner === 'string' && urnOf(owner) !== urn;
    return new Map([
      ...(changed ? [['bundle', 'update'] as const] : []),
      ...(moved ? [['owner', 'update'] as const] : []),
    ]);
  },

  async create(given, call) {
    if (call.preview || !isKnown(given)) return { id: '', outputs: { ...given, ...unknownFacts } };
    const inputs = applianceSchema.parse(given);
    await using host = await openHost(inputs.host);
    const found = await inspect(host, placeOf(inputs));
    if (found !== undefined && urnOf(found.marker.owner) !== call.urn)
      throw new TidemarkError(
        'host-failed',
        `${inputs.directory} on ${host.name} has the appliance ${found.marker.agent} of ${urnOf(found.marker.owner)}. Give the resource its old name in \`aliases\`, or take another directory.`,
        { path: 'directory' },
      );
    const owner = newOwner(call.urn);
    const id = `${identityOf(inputs.host)}:${inputs.directory}`;
    try {
      return { id, outputs: await put(inputs, given, owner, call) };
    } catch (error) {
      // What lies on the host already is this resource's to remove.
      const made = await inspect(host, placeOf(inputs)).catch(() => undefined);
      if (made?.marker.owner !== owner) throw error;
      const outputs = { ...given, ...plannedFacts(inputs), version: '', bundleSha256: '', owner, stale: false };
      throw new PartialFailure({ id, outputs }, (error as Error).message);
    }
  },

  async update(_id, before, given, call) {
    const owner = renamed(String(before['owner'] ?? ''), call.urn);
    if (call.preview || !isKnown(given)) return plannedUpdate(before, given, owner, call);
    return put(applianceSchema.parse(given), given, owner, call, String(before['owner'] ?? ''));
  },

  async read(id, before, given, call) {
    const inputs = applianceSchema.safeParse(given);
    if (given === undefined) throw new Error('An appliance cannot be imported: its key is not told again. Declare it.');
    if (!inputs.success) return { state: { id, outputs: before }, inputs: given };
    try {
      await using host = await openHost(inputs.data.host);
      const found = await inspect(host, placeOf(inputs.data));
      if (found === undefined) return undefined;
      if (!found.running) await call.tell.say('warning', `The agent on ${host.name} does not run.`);
      return { state: { id, outputs: { ...before, stale: false } }, inputs: given };
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      await call.tell.say('warning', `The last known state is shown: ${error.message} [${error.code}]`);
      return { state: { id, outputs: { ...before, stale: true } }, inputs: given };
    }
  },

  async delete(_id, before, call) {
    const inputs = applianceSchema.parse(pick(before));
    const { owner } = before;
    try {
      await using host = await openHost(inputs.host);
      const place = placeOf(inputs);
      const found = await inspect(host, place);
      if (found === undefined) return;
      if (found.marker.owner !== owner) {
        await call.tell.say('info', `The appliance on ${host.name} stays: it belongs to ${urnOf(found.marker.owner)}.`);
        return;
      }
      const answers = await refuseUsed(inputs);
      // Data elsewhere are a journal's of its own: never deleted here.
      const deletes = inputs.forceDestroy && place.dataDirectory === paths(inputs.directory).data;
      if (deletes || !answers) {
        const files = await liveFiles(host, place.dataDirectory, place.mountPoint);
        if (deletes) refuseDeletion(host, files);
        if (!answers) refuseLive(host, files.views, `the agent ${inputs.agent} ${deadWithViews}`, openViews);
      }
      if (!answers)
        await call.tell.say(
          'warning',
          `The agent ${inputs.agent} does not answer: what it protects is not known. ${deletes ? 'Its data go with it.' : `Its data stay in ${place.dataDirectory}.`}`,
        );
      call.tell.status('removing the agent');
      await uninstall(host, place, inputs.forceDestroy ? 'remove' : 'keep');
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      await hostGone(error, inputs.forceDestroy, `appliance ${inputs.agent}`, call);
    }
  },
};

/** Installs or changes; `known` is the owner that must be found there. */
async function put(
  inputs: ApplianceInputs,
  given: Properties,
  owner: string,
  call: Call,
  known?: string,
): Promise<Properties> {
  const { agent, directory } = inputs;
  const bundle = readBundle(inputs.bundle);
  await using host = await openHost(inputs.host);
  const place = placeOf(inputs);
  if (known !== undefined) {
    const found = await inspect(host, place);
    if (found !== undefined && found.marker.owner !== known && found.marker.owner !== owner)
      throw new TidemarkError(
        'host-failed',
        `${directory} on ${host.name} belongs to ${urnOf(found.marker.owner)} now.`,
      );
  }
  const marker: Marker = { version: 1, owner, agent };
  const probe = probeOf(inputs);
  try {
    let version = '';
    const generation = generationOf(inputs, bundle.sha256);
    const ready = async (signal: AbortSignal): Promise<void> => void (version = await probe.ready(signal));
    await install(host, {
      ...{ place, marker, bundle, generation, ready, signal: call.signal },
      tell: (text) => call.tell.status(text),
    });
    return { ...given, ...plannedFacts(inputs), version, bundleSha256: bundle.sha256, owner, stale: false };
  } finally {
    probe.close();
  }
}

/**
 * An agent that runs or protects something is not taken away: with forceDestroy one that protects is, one with a view that a
 * VM runs on never. False: it does not answer.
 */
async function refuseUsed(inputs: ApplianceInputs): Promise<boolean> {
  const probe = probeOf(inputs);
  try {
    const groups = await probe.client.groups();
    const isLive = ({ views }: GroupStatus): boolean =>
      views.some(({ purpose }) => purpose === 'production' || purpose === 'drill');
    const used = inputs.forceDestroy ? groups.filter(isLive) : groups;
    if (used.length === 0) return true;
    const named = used.map(({ name, state }) => `${name} (${state})`).join(', ');
    const way = inputs.forceDestroy
      ? 'VMs run on its views: roll back, commit, or end the drill first; forceDestroy does not.'
      : 'Give those up first, or set forceDestroy and run an update.';
    throw new TidemarkError('illegal-state', `The appliance ${inputs.agent} still has ${named}. ${way}`);
  } catch (error) {
    if (!isUnreachable(error)) throw error;
    return false;
  } finally {
    probe.close();
  }
}

/** Asks the agent itself, with its own certificate: it may read what it is. */
function probeOf(inputs: ApplianceInputs) {
  const { certificate, key, authority, readySeconds, agent } = inputs;
  const client = new AgentClient({ url: plannedFacts(inputs).api, certificate, key, authority, timeoutMs: 5000 });
  const ready = async (signal: AbortSignal): Promise<string> => {
    const untilMs = performance.now() + readySeconds * 1000;
    for (;;) {
      try {
        const [{ name, version }, { ready: isReady, checks }] = await Promise.all([client.agent(), client.health()]);
        if (name !== agent)
          throw new TidemarkError(
            'host-failed',
            `The agent ${name} answers at ${plannedFacts(inputs).api}, not ${agent}.`,
          );
        if (isReady) return version;
        if (performance.now() > untilMs) throw new TidemarkError('timed-out', notReady(checks));
      } catch (error) {
        if (!isUnreachable(error) || performance.now() > untilMs) throw error;
      }
      await pause(200, signal);
    }
  };
  return { client, ready, close: () => client.close() };
}

function notReady(checks: readonly { name: string; ok: boolean; message: string }[]): string {
  const bad = checks.filter(({ ok }) => !ok).map(({ name, message }) => `${name}: ${message}`);
  return `It is not ready: ${bad.join('; ')}`;
}

function plannedFacts(inputs: ApplianceInputs): { api: string; stream: string } {
  const address = inputs.address ?? addressOf(inputs.host);
  const host = address.includes(':') ? `[${address}]` : address;
  return { api: `https://${host}:${inputs.apiPort}`, stream: `${host}:${inputs.streamPort}` };
}

const unknownFacts: Properties = {
  ...{ api: unknown, stream: unknown, version: unknown, bundleSha256: unknown, owner: unknown, stale: unknown },
};

async function plannedUpdate(before: Properties, given: Properties, owner: string, call: Call): Promise<Properties> {
  const inputs = applianceSchema.safeParse(given);
  if (!inputs.success) return { ...given, ...unknownFacts, api: before['api'], stream: before['stream'], owner };
  const sha256 = bundleHash(inputs.data.bundle) ?? unknown;
  const upgrades = sha256 !== before['bundleSha256'];
  if (upgrades)
    await call.tell.say(
      'info',
      `upgrades the agent ${inputs.data.agent} in place: ${String(before['bundleSha256']).slice(0, 12)} -> ${String(sha256).slice(0, 12)}; protection goes on, and the old one comes back if the new one is not ready`,
    );
  const version = upgrades ? unknown : before['version'];
  return { ...given, ...plannedFacts(inputs.data), version, bundleSha256: sha256, owner, stale: false };
}

function placeOf({ directory, dataDirectory, agent, mountPoint }: ApplianceInputs): ServicePlace {
  return { directory, dataDirectory: dataDirectory ?? paths(directory).data, agent, mountPoint };
}

function generationOf(inputs: ApplianceInputs, bundleSha256: string): Generation {
  const { host, site, agent, directory, certificate, key, authority, operators, apiPort, streamPort, settings } =
    inputs;
  const listen = inputs.listenAddress ?? (host.kind === 'this-machine' ? '127.0.0.1' : '0.0.0.0');
  return {
    ...{ bundleSha256, certificate, key, authority },
    config: {
      ...settings,
      ...{ site, agent, dataDirectory: placeOf(inputs).dataDirectory },
      listen: {
        api: `${listen}:${apiPort}`,
        stream: `${listen}:${streamPort}`,
        nbd: { socketDirectory: paths(directory).sockets },
      },
      tls: { certificate: 'pki/agent.crt', key: 'pki/agent.key', authority: 'pki/ca.crt' },
      // Its own name: so it is asked whether it is ready.
      access: [
        ...operators.filter((name) => name !== agent).map((name) => ({ name, role: 'operator' as const })),
        { name: agent, role: 'reader' as const },
      ],
    },
  };
}

function bundleHash(file: string | undefined): string | undefined {
  try {
    return readBundle(file).sha256;
  } catch (error) {
    if (isTidemarkError(error, 'storage-not-found')) return undefined;
    throw error;
  }
}

function pick(from: Properties): Properties {
  const names = Object.keys(applianceSchema.shape);
  return Object.fromEntries(Object.entries(from).filter(([name]) => names.includes(name)));
}
