/**
 * Where an appliance keeps journals and replicas: a directory of its host, or a block device of its own. Never replaced. The
 * file `owner` beside the data says whose it is: only that resource deletes it.
 */
import { z } from 'zod';
import { isTidemarkError, TidemarkError } from '../agent-client.js';
import type { Host } from '../appliance/host.js';
import { liveFiles, refuseDeletion, refuseLive } from '../appliance/live-files.js';
import { openHost, identityOf } from '../appliance/open-host.js';
import { prepareVolume, releaseVolume, volumeUuid } from '../appliance/journal-volume.js';
import { readFile, sh, writeFile } from '../appliance/scripts.js';
import { hostChanged, hostGone } from './appliance-hosts.js';
import { targetJournalSchema, type TargetJournalInputs } from './appliance-inputs.js';
import { asItWas, unchanged } from './appliance-certificates.js';
import { isKnown } from './check.js';
import { newOwner, renamed, urnOf } from './owner.js';
import type { ResourceKind } from './resource.js';
import { unknown, type Properties } from './values.js';

const fixed = ['directory', 'device', 'fileSystem'] as const;
const why = 'it holds journals; declare another one';

export const targetJournal: ResourceKind = {
  token: 'tidemark:index:TargetJournal',
  description:
    'Where an appliance keeps journals and replicas. Never replaced, and deleted only when forceDestroy says so',
  schema: targetJournalSchema,
  outputs: z.object({
    dataDirectory: z.string().describe('For the appliance'),
    mountPoint: z.string().describe('For the appliance; empty without a device'),
    volume: z.string().describe('UUID of the file system on the device; empty without one'),
    owner: z.string().describe('URN of the resource that it belongs to, and a token of its create'),
  }),
  check: (inputs, before) => [
    ...unchanged(targetJournalSchema, inputs, before, fixed, why),
    ...hostChanged(inputs, before),
  ],
  changes: (urn, { owner }) => new Map(typeof owner === 'string' && urnOf(owner) !== urn ? [['owner', 'update']] : []),

  async create(given, { urn, preview, existed, tell }) {
    if (!isKnown(given)) return { id: '', outputs: { ...given, ...planned(given), volume: unknown, owner: unknown } };
    const inputs = targetJournalSchema.parse(given);
    if (existed)
      throw new Error(`The journal ${inputs.directory} is never replaced. Run the update without --replace.`);
    if (preview) {
      const { directory, device, fileSystem } = inputs;
      if (device !== undefined)
        await tell.say('info', `formats ${device} with ${fileSystem} for ${directory}, if nothing is on it`);
      return { id: '', outputs: { ...given, ...planned(given), volume: unknown, owner: unknown } };
    }
    const owner = newOwner(urn);
    await using host = await openHost(inputs.host);
    const volume = inputs.device === undefined ? '' : volumeUuid(`${urn} ${inputs.device}`);
    if (inputs.device !== undefined) await prepareVolume(host, volumeOf(inputs, volume));
    const found = await ownerOn(host, inputs.directory);
    if (found !== undefined && urnOf(found) !== urn) throw ofAnother(host, inputs.directory, found);
    const make = 'umask 077; mkdir -p "$1/data" && chmod 0700 "$1" "$1/data"';
    await sh(host, `making ${inputs.directory}`, make, [inputs.directory]);
    await writeFile(host, ownerFile(inputs.directory), `${owner}\n`, '0600');
    return {
      id: `${identityOf(inputs.host)}:${inputs.directory}`,
      outputs: { ...given, ...planned(given), volume, owner },
    };
  },
  async update(_id, before, given, { urn, preview }) {
    const previous = String(before['owner']);
    const owner = renamed(previous, urn);
    if (owner !== previous && !preview && isKnown(given)) {
      const { host: place, directory } = targetJournalSchema.parse(given);
      await using host = await openHost(place);
      const found = await ownerOn(host, directory);
      if (found !== undefined && found !== previous && found !== owner) throw ofAnother(host, directory, found);
      await writeFile(host, ownerFile(directory), `${owner}\n`, '0600');
    }
    return { ...before, ...given, ...planned(given), owner };
  },
  // What it holds is the agent's to tell.
  read: (id, before, inputs) => Promise.resolve(asItWas('a journal', id, before, inputs)),

  async delete(_id, before, call) {
    const inputs = targetJournalSchema.parse(pick(before));
    const { directory, forceDestroy } = inputs;
    const data = forceDestroy ? 'remove' : 'keep';
    try {
      await using host = await openHost(inputs.host);
      const found = await ownerOn(host, directory);
      if (found !== undefined && found !== before['owner']) {
        await call.tell.say(
          'info',
          `The journals in ${directory} on ${host.name} stay: they belong to ${urnOf(found)}.`,
        );
        return;
      }
      if (forceDestroy) await refuseLost(host, directory);
      if (forceDestroy) await sh(host, `deleting ${directory}/data`, 'rm -rf "$1/data"', [directory]);
      await sh(host, `leaving ${directory}`, 'rm -f "$1"', [ownerFile(directory)]);
      if (inputs.device !== undefined) await releaseVolume(host, volumeOf(inputs, String(before['volume'])), data);
      else await sh(host, `leaving ${directory}`, 'rmdir "$1" 2>/dev/null; true', [directory]);
      if (!forceDestroy) await call.tell.say('info', `The journals in ${directory} stay on ${host.name}.`);
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      await hostGone(error, forceDestroy, `journal ${directory}`, call);
    }
  },
};

async function refuseLost(host: Host, directory: string): Promise<void> {
  const files = await liveFiles(host, `${directory}/data`, directory);
  refuseDeletion(host, files);
  const hint = 'Roll back, commit or close what is open, or delete the files by hand; forceDestroy does not.';
  refuseLive(host, files.views, 'there are views that VMs may run on', hint);
}

const ownerFile = (directory: string): string => `${directory}/owner`;

/** Undefined: nobody, or one of a package that did not write it yet. */
async function ownerOn(host: Host, directory: string): Promise<string | undefined> {
  return (await readFile(host, ownerFile(directory)))?.trim();
}

function ofAnother(host: Host, directory: string, owner: string): TidemarkError {
  return new TidemarkError(
    'host-failed',
    `${directory} on ${host.name} is the journal of ${urnOf(owner)}. Give the resource its old name in \`aliases\` or take another directory; when that stack is gone for good, delete ${ownerFile(directory)}.`,
    { path: 'directory' },
  );
}

function planned({ directory, device }: Properties): Properties {
  return {
    dataDirectory: typeof directory === 'string' ? `${directory}/data` : unknown,
    mountPoint: device === undefined ? '' : directory,
  };
}

function volumeOf({ directory, device = '', fileSystem }: TargetJournalInputs, uuid: string) {
  return { directory, device, fileSystem, uuid };
}

function pick(from: Properties): Properties {
  const names = Object.keys(targetJournalSchema.shape);
  return Object.fromEntries(Object.entries(from).filter(([name]) => names.includes(name)));
}
