/** What capture reads from a libvirt domain's XML. */
import type { Element } from '@xmldom/xmldom';
import { attributeOf, elementOf, elementsOf, parseXml, textOf } from './xml-tree.js';

export interface DomainDisk {
  readonly target: string;
  /** Device alias in QEMU; only of a running domain. */
  readonly alias: string | undefined;
  readonly device: string;
  /** `file`, `block`, `network`, `volume` …; undefined: an empty drive. */
  readonly kind: string | undefined;
  readonly format: string;
  /** Path, device or URI. */
  readonly source: string;
  readonly readOnly: boolean;
  readonly shareable: boolean;
  readonly encrypted: boolean;
  /** libvirt's own copy, commit or backup job on it. */
  readonly busy: string | undefined;
}

export interface Domain {
  readonly name: string;
  readonly uuid: string;
  readonly disks: readonly DomainDisk[];
  readonly hasTpm: boolean;
  /** File of the firmware variables. */
  readonly nvram: string | undefined;
}

export function parseDomain(xml: string): Domain {
  const domain = parseXml(xml, 'domain', 'A VM definition');
  const devices = elementOf(domain, 'devices');
  return {
    name: textOf(domain, 'name') ?? '',
    uuid: textOf(domain, 'uuid') ?? '',
    disks: devices === undefined ? [] : elementsOf(devices, 'disk').map(parseDisk),
    hasTpm: devices !== undefined && elementOf(devices, 'tpm') !== undefined,
    nvram: nvramOf(domain),
  };
}

/** Why the disk cannot be captured; undefined: it can. */
export function refusalOf(disk: DomainDisk): string | undefined {
  if (disk.device !== 'disk') return disk.device === 'lun' ? 'a SCSI pass-through device' : `a ${disk.device}`;
  if (disk.kind === undefined) return 'an empty drive';
  if (disk.readOnly) return 'read-only';
  if (disk.shareable) return 'shared with other VMs: writes of the others would be missed';
  if (disk.kind === 'vhostuser' || disk.kind === 'nvme' || disk.kind === 'vhostvdpa')
    return `a ${disk.kind} device: its writes do not pass QEMU`;
  if (disk.format !== 'raw' && disk.format !== 'qcow2') return `its format ${disk.format} is not supported`;
  if (disk.encrypted) return 'encrypted by QEMU: use encryption in the guest, or of the journal';
  return disk.busy === undefined ? undefined : `libvirt runs a ${disk.busy} job on it`;
}

function parseDisk(disk: Element): DomainDisk {
  const kind = disk.getAttribute('type') ?? 'file';
  const source = elementOf(disk, 'source');
  const sourceText = source === undefined ? '' : sourceOf(kind, source);
  return {
    target: attributeOf(disk, ['target'], 'dev') ?? '',
    alias: attributeOf(disk, ['alias'], 'name'),
    device: disk.getAttribute('device') || 'disk',
    kind: sourceText === '' && kind !== 'vhostuser' ? undefined : kind,
    format: attributeOf(disk, ['driver'], 'type') ?? 'raw',
    source: sourceText,
    readOnly: elementOf(disk, 'readonly') !== undefined,
    shareable: elementOf(disk, 'shareable') !== undefined,
    encrypted: elementOf(disk, 'encryption') !== undefined || elementOf(disk, 'source', 'encryption') !== undefined,
    busy: attributeOf(disk, ['mirror'], 'job'),
  };
}

function sourceOf(kind: string, source: Element): string {
  const of = (name: string): string => source.getAttribute(name) ?? '';
  if (kind === 'file') return of('file');
  if (kind === 'block') return of('dev');
  if (kind === 'volume') return `${of('pool')}/${of('volume')}`;
  if (kind === 'network') return `${of('protocol')}:${of('name')}`;
  return kind;
}

function nvramOf(domain: Element): string | undefined {
  const text = textOf(domain, 'os', 'nvram');
  if (text !== undefined && text !== '') return text;
  return attributeOf(domain, ['os', 'nvram', 'source'], 'file');
}
