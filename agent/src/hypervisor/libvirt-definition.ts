/** A libvirt VM as it travels: domain XML, firmware variables, small media. */
import { open } from 'node:fs/promises';
import { TidemarkError } from '../core/errors.js';
import { definitionFileBytesMax, vmDefinitionSchema, type VmDefinition } from './definition.js';
import { parseDomain, type Domain } from './domain-xml.js';

const nvramRole = 'nvram';

/**
 * `xml`: what the VM starts with next time. `known`: the definition before; a VM that runs on goes on with its firmware
 * variables when their file is missing, and one that is empty is being written. Throws `vm-refused` for what cannot travel.
 */
export async function libvirtDefinition(
  name: string,
  xml: string,
  disks: VmDefinition['disks'],
  known?: VmDefinition,
): Promise<VmDefinition> {
  const domain = parseDomain(xml);
  if (domain.hasTpm)
    throw new TidemarkError(
      'vm-refused',
      `VM ${name} has a TPM: its state cannot be carried to the other site. Remove <tpm> from the VM, or do not protect it.`,
    );
  const files: { role: string; contentBase64: string }[] = [];
  if (domain.nvram !== undefined) {
    const content = await readSmall(domain.nvram);
    if (content === 'too-long')
      throw new TidemarkError('vm-refused', `VM ${name}: its firmware variables ${domain.nvram} are over 4 MiB.`);
    const before = known?.files.find(({ role }) => role === nvramRole);
    if (content !== undefined && content.length > 0)
      files.push({ role: nvramRole, contentBase64: content.toString('base64') });
    // One that was never started has none yet.
    else if (before !== undefined) files.push(before);
  }
  for (const disk of domain.disks) {
    if (!isMedium(disk)) continue;
    const content = await readSmall(disk.source);
    // Installation media are no part of the VM.
    if (content === undefined || content === 'too-long') continue;
    files.push({ role: disk.target, contentBase64: content.toString('base64') });
  }
  return vmDefinitionSchema.parse({ name: domain.name, uuid: domain.uuid, domainXml: xml, disks, files });
}

/** The files on this host that a definition carries. */
export function definitionFiles({ domainXml }: Pick<VmDefinition, 'domainXml'>): string[] {
  const { nvram, disks } = parseDomain(domainXml);
  return [...(nvram === undefined ? [] : [nvram]), ...disks.filter(isMedium).map(({ source }) => source)];
}

function isMedium({ kind, device }: Domain['disks'][number]): boolean {
  return kind === 'file' && (device === 'cdrom' || device === 'floppy');
}

/** Undefined: it is not there. */
async function readSmall(path: string): Promise<Buffer | 'too-long' | undefined> {
  try {
    const file = await open(path, 'r');
    try {
      const { size } = await file.stat();
      return size > definitionFileBytesMax ? 'too-long' : await file.readFile();
    } finally {
      await file.close();
    }
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new TidemarkError('storage-io', `${path}: ${(cause as Error).message}`, { path, cause });
  }
}
