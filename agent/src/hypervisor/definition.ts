/**
 * What makes a VM besides its disks' bytes: domain XML, firmware variables, cloud-init media. Read at the source, kept at
 * the target by hash, versioned with the checkpoints.
 */
import { z } from 'zod';

/** Firmware variables and small media travel inside the definition; anything larger is refused. */
export const definitionFileBytesMax = 4 * 1024 * 1024;

export const definitionFileSchema = z.strictObject({
  /** `nvram`, or the target of a small read-only medium (`sda`). */
  role: z.string().min(1).max(64),
  contentBase64: z.base64().max(Math.ceil((definitionFileBytesMax * 4) / 3) + 4),
});

export const vmDefinitionSchema = z.strictObject({
  name: z.string().min(1).max(256),
  uuid: z.guid(),
  /** Persistent (inactive) domain XML as libvirt prints it, secrets left out. Empty: a VM known by its monitor alone. */
  domainXml: z.string().max(1024 * 1024),
  /** Which disk of the group backs which target of the VM. */
  disks: z.array(z.strictObject({ target: z.string().min(1).max(64), disk: z.string().min(1).max(64) })).max(64),
  files: z.array(definitionFileSchema).max(16),
});
export type VmDefinition = z.infer<typeof vmDefinitionSchema>;
