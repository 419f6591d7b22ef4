/**
 * Makes the domain XML that a VM is recovered with out of the one that was stored: disks on a view (or on files), NICs on
 * mapped networks, paths of this host, and the owner's mark. What cannot move is an error that names it.
 */
import { createHash } from 'node:crypto';
import type { Element } from '@xmldom/xmldom';
import { TidemarkError } from '../core/errors.js';
import type { VmDefinition } from '../hypervisor/definition.js';
import type { Addressing } from '../service/recovery-spec.js';
import { cloudInitSeed, isSeed, type SeedNic } from './cloud-init.js';
import { setMark, type OwnerMark } from './owner-mark.js';
import {
  appendElement,
  attributeOf,
  elementOf,
  elementsOf,
  parseXml,
  printXml,
  removeElements,
  replaceText,
  setText,
} from '../hypervisor/xml-tree.js';

/** Where a disk of the group is served to the hypervisor. */
export type DiskSource =
  | { readonly kind: 'nbd'; readonly socket: string; readonly exportName: string }
  | { readonly kind: 'file'; readonly path: string };

export interface NicAddress {
  /** In the guest. */
  readonly name?: string | undefined;
  readonly addressing: Addressing;
}

export interface RecoveryXmlOptions {
  readonly definition: VmDefinition;
  readonly mark: OwnerMark;
  /** Source of each disk of the group, by the group's name of it; undefined: the checkpoint misses it. */
  readonly disk: (name: string) => DiskSource | undefined;
  /** Network for a NIC, by the name of its network in the definition (`NAME` or `bridge:NAME`). */
  readonly network: (from: string) => string;
  readonly mac: 'keep' | 'new';
  /** Appended to the name; the UUID becomes another one. Undefined: name and UUID stay. */
  readonly suffix?: string | undefined;
  /** Directory for firmware variables, media and logs of this VM on this host. */
  readonly directory: string;
  /** Address of each NIC, to be set by cloud-init; undefined, or `keep` for all: its medium stays as it is. */
  readonly cloudInit?: ReadonlyMap<number, NicAddress> | undefined;
}

export interface RecoveryXml {
  readonly name: string;
  readonly uuid: string;
  readonly xml: string;
  /** Files that must lie in `directory` before the VM is defined. */
  readonly files: readonly { readonly path: string; readonly content: Buffer }[];
  /** MAC address and network of each NIC, in order. */
  readonly nics: readonly { readonly mac: string; readonly network: string }[];
  /** Targets of disks that the group does not protect: the VM boots without them. */
  readonly disksLeftOut: readonly string[];
}

/** Devices that belong to the source host. */
const immovable: Readonly<Record<string, string>> = {
  hostdev: 'a host device',
  filesystem: 'a host directory',
  shmem: 'shared memory of the host',
  tpm: 'a TPM',
  nvram: 'a host NVRAM device',
};

/** Throws `vm-refused` when the VM has what cannot move, `definition-unknown` when there is no XML. */
export function recoveryXml(options: RecoveryXmlOptions): RecoveryXml {
  const { definition, mark, suffix } = options;
  if (definition.domainXml === '')
    throw new TidemarkError(
      'definition-unknown',
      `VM ${definition.name} was known by its monitor alone: no domain XML.`,
    );
  const domain = parseXml(definition.domainXml, 'domain', `The definition of ${definition.name}`);
  const devices = elementOf(domain, 'devices');
  if (devices === undefined) throw refuse(definition, 'its definition has no devices');
  const name = suffix === undefined ? definition.name : `${definition.name}${suffix}`;
  const uuid = suffix === undefined ? definition.uuid : uuidOf(`${mark.operation} ${definition.uuid}`);
  checkMovable(definition, domain, devices);
  setText(domain, 'name', name);
  setText(domain, 'uuid', uuid);
  domain.removeAttribute('id');
  removeElements(domain, 'seclabel', 'resource');
  // A guest that watches its generation learns that it went back in time.
  if (elementOf(domain, 'genid') !== undefined) setText(domain, 'genid', uuidOf(`genid ${mark.operation} ${uuid}`));
  setMark(domain, mark);
  // The emulator of the source host may lie elsewhere here: libvirt knows its own.
  removeElements(devices, 'emulator');
  const files = [...placeFirmware(options, domain)];
  const nics = placeNics(options, devices, mark.purpose === 'drill');
  const disksLeftOut = placeDisks(options, devices, files, seedOf(options, nics));
  placeCharacterDevices(options, devices);
  placeGraphics(devices);
  return { name, uuid, xml: printXml(domain), files, nics, disksLeftOut };
}

function refuse({ name }: VmDefinition, why: string): TidemarkError {
  return new TidemarkError('vm-refused', `VM ${name} cannot be recovered here: ${why}.`);
}

function checkMovable(definition: VmDefinition, domain: Element, devices: Element): void {
  for (const device of elementsOf(devices)) {
    const what = immovable[device.tagName];
    if (what !== undefined) throw refuse(definition, `it has ${what} (<${device.tagName}>)`);
    if (device.tagName === 'interface' && device.getAttribute('type') === 'hostdev')
      throw refuse(definition, 'it has a NIC of the host (<interface type="hostdev">)');
  }
  if (elementOf(domain, 'launchSecurity') !== undefined)
    throw refuse(definition, 'its memory is sealed to the source host (<launchSecurity>)');
  const commandLine = elementsOf(domain).find(({ tagName }) => tagName === 'qemu:commandline');
  const argument = (commandLine === undefined ? [] : elementsOf(commandLine))
    .map((element) => element.getAttribute('value') ?? '')
    .find((value) => /^-{1,2}(netdev|nic|net|drive|blockdev|hd[a-d]|incoming)$/.test(value));
  if (argument !== undefined)
    throw refuse(definition, `it gives QEMU ${argument} by hand, which networks and disks here cannot replace`);
}

function placeFirmware({ definition, directory }: RecoveryXmlOptions, domain: Element): RecoveryXml['files'] {
  const nvram = elementOf(domain, 'os', 'nvram');
  if (nvram === undefined) return [];
  const file = definition.files.find(({ role }) => role === 'nvram');
  const path = `${directory}/nvram.fd`;
  replaceText(nvram, path);
  for (const name of ['type', 'templateFormat', 'format']) nvram.removeAttribute(name);
  return file === undefined ? [] : [{ path, content: Buffer.from(file.contentBase64, 'base64') }];
}

function placeDisks(
  options: RecoveryXmlOptions,
  devices: Element,
  files: { path: string; content: Buffer }[],
  seed: Buffer | undefined,
): string[] {
  const { definition, directory } = options;
  const leftOut: string[] = [];
  let isSeeded = seed === undefined;
  for (const disk of elementsOf(devices, 'disk')) {
    const target = attributeOf(disk, ['target'], 'dev') ?? '';
    const kind = disk.getAttribute('device') ?? 'disk';
    if (kind === 'cdrom' || kind === 'floppy') {
      removeElements(disk, 'source', 'backingStore', 'mirror', 'auth');
      disk.setAttribute('type', 'file');
      const medium = definition.files.find(({ role }) => role === target);
      if (medium === undefined) continue;
      const path = `${directory}/${target}.img`;
      let content: Buffer = Buffer.from(medium.contentBase64, 'base64');
      if (!isSeeded && seed !== undefined && isSeed(content)) {
        content = seed;
        isSeeded = true;
      }
      files.push({ path, content });
      appendElement(disk, 'source', { file: path });
      continue;
    }
    const name = definition.disks.find((entry) => entry.target === target)?.disk;
    const source = name === undefined ? undefined : options.disk(name);
    if (source === undefined) {
      devices.removeChild(disk);
      leftOut.push(target);
    } else setDiskSource(disk, source);
  }
  if (elementsOf(devices, 'disk').every((disk) => (disk.getAttribute('device') ?? 'disk') !== 'disk'))
    throw refuse(definition, 'none of its disks is protected');
  if (!isSeeded)
    throw refuse(
      definition,
      'its addresses are to be set by cloud-init, and it has no NoCloud medium (a CD-ROM labelled cidata); attach one at the source, or set `addressesBy: guest-agent`',
    );
  return leftOut;
}

/** cloud-init replaces all of a guest's network configuration, so it must know every NIC. */
function seedOf({ cloudInit, definition, mark }: RecoveryXmlOptions, nics: RecoveryXml['nics']): Buffer | undefined {
  if (cloudInit === undefined) return undefined;
  const seedNics: SeedNic[] = [];
  const kept: number[] = [];
  for (const [index, { mac }] of nics.entries()) {
    const { name, addressing = 'keep' } = cloudInit.get(index) ?? {};
    if (addressing === 'keep') kept.push(index);
    else seedNics.push({ mac, name, addressing });
  }
  const unknown = [...cloudInit.keys()].find((nic) => nic >= nics.length);
  if (unknown !== undefined) throw refuse(definition, `it has no NIC ${unknown} to give an address`);
  if (seedNics.length === 0) return undefined;
  if (kept.length > 0)
    throw refuse(
      definition,
      `cloud-init replaces the configuration of all NICs, and NIC ${kept.join(', ')} has no address here; name one, or \`dhcp\``,
    );
  return cloudInitSeed(`tidemark-${uuidOf(`seed ${mark.operation} ${definition.uuid}`)}`, seedNics);
}

/** Puts the disk on a view or on a raw file. On a view an error stops the VM: the same I/O is done again on resume. */
export function setDiskSource(disk: Element, source: DiskSource): void {
  removeElements(disk, 'source', 'backingStore', 'mirror', 'auth', 'encryption', 'driver');
  const driver: Record<string, string> = { name: 'qemu', type: 'raw', cache: 'none', discard: 'unmap' };
  if (source.kind === 'nbd') {
    disk.setAttribute('type', 'network');
    Object.assign(driver, { error_policy: 'stop', rerror_policy: 'stop' });
  } else disk.setAttribute('type', 'file');
  const first = disk.firstChild;
  const place = (name: string, attributes: Record<string, string>): Element => {
    const element = appendElement(disk, name, attributes);
    disk.insertBefore(element, first);
    return element;
  };
  place('driver', driver);
  if (source.kind === 'file') place('source', { file: source.path });
  else {
    const element = place('source', { protocol: 'nbd', name: source.exportName });
    appendElement(element, 'host', { transport: 'unix', socket: source.socket });
  }
}

/** Name of a NIC's network as settings write it. */
export function nicNetwork(nic: Element): string {
  const type = nic.getAttribute('type') ?? '';
  const source = elementOf(nic, 'source');
  if (type === 'network') return source?.getAttribute('network') ?? '';
  if (type === 'bridge') return `bridge:${source?.getAttribute('bridge') ?? ''}`;
  return type;
}

function placeNics(options: RecoveryXmlOptions, devices: Element, isDrill: boolean): RecoveryXml['nics'] {
  return elementsOf(devices, 'interface').map((nic, index) => {
    const network = options.network(nicNetwork(nic));
    const bridge = /^bridge:(.*)$/.exec(network)?.[1];
    removeElements(nic, 'source', 'target', 'backend', 'virtualport', 'vlan', 'portForward', 'ip', 'route', 'guest');
    nic.setAttribute('type', bridge === undefined ? 'network' : 'bridge');
    const source = appendElement(nic, 'source', bridge === undefined ? { network } : { bridge });
    nic.insertBefore(source, nic.firstChild);
    // A filter of the source host may not exist here, and a drill's network needs none.
    if (isDrill) removeElements(nic, 'filterref', 'bandwidth');
    const known = attributeOf(nic, ['mac'], 'address');
    const { mark, definition } = options;
    const seed = `${mark.agent} ${mark.operation} ${definition.uuid} ${index}`;
    const mac = known === undefined || options.mac === 'new' ? macOf(seed) : known;
    removeElements(nic, 'mac');
    nic.insertBefore(appendElement(nic, 'mac', { address: mac }), nic.firstChild);
    return { mac, network };
  });
}

/** Sockets, ports and files of the source host are replaced by what libvirt and this directory give. */
function placeCharacterDevices({ directory }: RecoveryXmlOptions, devices: Element): void {
  for (const kind of ['serial', 'console', 'parallel', 'channel', 'redirdev'])
    for (const [index, device] of elementsOf(devices, kind).entries()) {
      const type = device.getAttribute('type') ?? '';
      // A first console is the first serial port seen again: one file.
      const logFile = `${directory}/${kind === 'console' ? 'serial' : kind}${index}.log`;
      if (kind === 'redirdev' && type !== 'spicevmc') {
        devices.removeChild(device);
        continue;
      }
      removeElements(device, 'alias');
      for (const log of elementsOf(device, 'log')) log.setAttribute('file', logFile);
      const source = elementOf(device, 'source');
      if (type === 'unix' && kind === 'channel') removeElements(device, 'source');
      else if (type === 'file') source?.setAttribute('path', logFile);
      else if (['unix', 'tcp', 'udp', 'dev', 'pipe'].includes(type)) {
        removeElements(device, 'source', 'protocol');
        device.setAttribute('type', 'pty');
      } else if (type === 'pty') source?.removeAttribute('path');
    }
  for (const vsock of elementsOf(devices, 'vsock')) {
    const cid = elementOf(vsock, 'cid');
    cid?.removeAttribute('address');
    cid?.setAttribute('auto', 'yes');
  }
}

/** Fixed ports and sockets may be taken here. */
function placeGraphics(devices: Element): void {
  for (const graphics of elementsOf(devices, 'graphics')) {
    for (const name of ['port', 'tlsPort', 'websocket', 'socket', 'listen']) graphics.removeAttribute(name);
    removeElements(graphics, 'listen');
    if (['vnc', 'spice', 'rdp'].includes(graphics.getAttribute('type') ?? '')) {
      graphics.setAttribute('autoport', 'yes');
      graphics.setAttribute('listen', '127.0.0.1');
    }
  }
}

/** A UUID (version 8, made of a hash) that the same words always give. */
export function uuidOf(words: string): string {
  const bytes = createHash('sha256').update(`tidemark uuid ${words}`).digest().subarray(0, 16);
  bytes[6] = (bytes[6]! & 0x0f) | 0x80;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = bytes.toString('hex');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

/** A MAC address of QEMU's range that the same words always give. */
function macOf(words: string): string {
  const bytes = createHash('sha256').update(`tidemark mac ${words}`).digest();
  return ['52', '54', '00', ...[...bytes.subarray(0, 3)].map((byte) => byte.toString(16).padStart(2, '0'))].join(':');
}
