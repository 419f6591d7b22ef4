/**
 * Makes a small read-only medium: ISO 9660, plain files in its root. What every kernel and cloud-init read without a tool
 * of the host. Valid if and only if sector 16 is the primary descriptor and the root's records stay within one sector.
 *
 * | sector | what |
 * |---|---|
 * | 0-15 | zeros |
 * | 16, 17 | primary descriptor, end of descriptors |
 * | 18, 19 | path table, little and big endian |
 * | 20 | root directory |
 * | 21- | files, each from a new sector |
 */
import { invariant } from '../core/invariant.js';

const sectorBytes = 2048;
const firstFile = 21;
const rootSector = 20;
/** Level 2 and 3 of the standard; lower case as most tools write it. */
const nameCharsMax = 30;

const sectorsOf = (bytes: number): number => Math.ceil(bytes / sectorBytes);

/** `label`: at most 32 characters. Files in the order given; the same input gives the same bytes. */
export function isoImage(label: string, files: readonly { readonly name: string; readonly content: Buffer }[]): Buffer {
  invariant(label.length <= 32 && files.every(({ name }) => name.length <= nameCharsMax), 'names that fit');
  let next = firstFile;
  const placed = [...files]
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .map((file) => {
      const sector = next;
      next += sectorsOf(file.content.length);
      return { ...file, sector };
    });
  const image = Buffer.alloc(next * sectorBytes);
  const at = (sector: number): Buffer => image.subarray(sector * sectorBytes, (sector + 1) * sectorBytes);
  describe(at(16), label, next);
  at(17).write('\xffCD001\x01', 'latin1');
  at(18).set(pathTable('LE'));
  at(19).set(pathTable('BE'));
  const root = [
    directoryRecord('\0', rootSector, sectorBytes, true),
    directoryRecord('\x01', rootSector, sectorBytes, true),
    ...placed.map(({ name, sector, content }) => directoryRecord(name, sector, content.length, false)),
  ];
  const records = Buffer.concat(root);
  invariant(records.length <= sectorBytes, 'a root of one sector');
  at(rootSector).set(records);
  for (const { sector, content } of placed) content.copy(image, sector * sectorBytes);
  return image;
}

/** The label of a medium of ISO 9660 or FAT; undefined: neither. */
export function mediumLabel(image: Buffer): string | undefined {
  const descriptor = 16 * sectorBytes;
  if (image.length >= descriptor + sectorBytes && image.toString('latin1', descriptor + 1, descriptor + 6) === 'CD001')
    return image.toString('latin1', descriptor + 40, descriptor + 72).trim();
  if (image.length < 512 || image.readUInt16LE(510) !== 0xaa55) return undefined;
  for (const [typeAt, labelAt] of [
    [54, 43],
    [82, 71],
  ] as const)
    if (image.toString('latin1', typeAt, typeAt + 3) === 'FAT')
      return image.toString('latin1', labelAt, labelAt + 11).trim();
  return undefined;
}

function describe(sector: Buffer, label: string, sectorCount: number): void {
  sector.fill(' ', 8, 72).fill(' ', 190, 813);
  sector.write('\x01CD001\x01', 0, 'latin1');
  sector.write(label, 40, 'latin1');
  bothEnds32(sector, 80, sectorCount);
  for (const [offset, value] of [
    [120, 1],
    [124, 1],
    [128, sectorBytes],
  ] as const)
    bothEnds16(sector, offset, value);
  bothEnds32(sector, 132, pathTable('LE').length);
  sector.writeUInt32LE(18, 140);
  sector.writeUInt32BE(19, 148);
  sector.set(directoryRecord('\0', rootSector, sectorBytes, true), 156);
  for (let date = 0; date < 4; date++)
    sector.fill('0', 813 + date * 17, 829 + date * 17).fill(0, 829 + date * 17, 830 + date * 17);
  sector[881] = 1;
}

/** Of the root alone. */
function pathTable(order: 'LE' | 'BE'): Buffer {
  const table = Buffer.alloc(10);
  table[0] = 1;
  if (order === 'LE') {
    table.writeUInt32LE(rootSector, 2);
    table.writeUInt16LE(1, 6);
  } else {
    table.writeUInt32BE(rootSector, 2);
    table.writeUInt16BE(1, 6);
  }
  return table;
}

/** Dated 2000-01-01: the same content is the same medium. */
function directoryRecord(name: string, sector: number, bytes: number, isDirectory: boolean): Buffer {
  const record = Buffer.alloc(33 + name.length + (name.length % 2 === 0 ? 1 : 0));
  record[0] = record.length;
  bothEnds32(record, 2, sector);
  bothEnds32(record, 10, bytes);
  record.set([100, 1, 1, 0, 0, 0, 0], 18);
  record[25] = isDirectory ? 2 : 0;
  bothEnds16(record, 28, 1);
  record[32] = name.length;
  record.write(name, 33, 'latin1');
  return record;
}

function bothEnds32(target: Buffer, offset: number, value: number): void {
  target.writeUInt32LE(value, offset);
  target.writeUInt32BE(value, offset + 4);
}

function bothEnds16(target: Buffer, offset: number, value: number): void {
  target.writeUInt16LE(value, offset);
  target.writeUInt16BE(value, offset + 2);
}
