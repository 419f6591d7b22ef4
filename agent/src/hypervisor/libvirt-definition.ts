/** A libvirt VM as it travels: domain XML, firmware variables, small media. */
import { open } from 'node:fs/promises';
import { TidemarkError } from '../core/errors.js';
import { definitionFileBytesMax, vmDefinitionSchema, type VmDefinition } from './definition.js';
import { parseDomain } from './domain-xml.js';

/** `xml`: what the VM starts with next time. Throws `vm-refused` for what cannot travel. */
export async function libvirtDefinition(
  name: string,
  xml: string,
  disks: VmDefinition['disks'],
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
    // One that was never started has none yet.
    if (content !== undefined) files.push({ role: 'nvram', contentBase64: content.toString('base64') });
  }
  for (const disk of domain.disks) {
    if (disk.kind !== 'file' || (disk.device !== 'cdrom' && disk.device !== 'floppy')) continue;
    const content = await readSmall(disk.source);
    // Installation media are no part of the VM.
    if (content === undefined || content === 'too-long') continue;
    files.push({ role: disk.target, contentBase64: content.toString('base64') });
  }
  return vmDefinitionSchema.parse({ name: domain.name, uuid: domain.uuid, domainXml: xml, disks, files });
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
