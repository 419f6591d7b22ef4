/**
 * Files of a record log (an append-only log of JSON records; a group's manifest is one).
 *
 * Files in `directory` for the log NAME: `NAME-<n>` (10 digits) holds the records, `NAME-current` names the file that
 * counts. Every other `NAME-<n>` is a left-over of a rewrite and is removed by `open`.
 *
 * `NAME-<n>` (little-endian): header of 24 bytes, then frames, each starting on a multiple of 8.
 *
 * | offset | bytes | header field |
 * |---|---|---|
 * | 0  | 4 | magic `TMRL` |
 * | 4  | 4 | version, 1 |
 * | 8  | 4 | generation: the n of the file name |
 * | 12 | 4 | snapshot frames: frames that were there when the file was published |
 * | 16 | 4 | crc32 of bytes 0..15 |
 * | 20 | 4 | reserved, 0 |
 *
 * | offset | bytes | frame field |
 * |---|---|---|
 * | 0  | 4 | payload bytes, 1…frameBytesMax |
 * | 4  | 4 | crc32 of generation (4 bytes), payload bytes, running number, payload |
 * | 8  | 4 | running number, 1 for the first frame of a file |
 * | 12 | n | payload: JSON texts, each followed by a line feed |
 * | …  | 0…7 | zeros up to a multiple of 8 |
 *
 * `NAME-current`: the text `NAME-<n> <crc32 of the name, 8 hexadecimal digits>\n`.
 *
 * A frame is valid if and only if its checksum agrees and its number is the one before + 1. One frame is one group
 * commit, so a frame is written only after every frame before it was fdatasynced.
 *
 * What a crash can leave: a torn last frame (cut off by `open`: nobody was told that it is durable). A bad frame with a
 * valid later one behind it was durable once, so it is damage: `journal-corrupt`; so is a bad one of the snapshot. The last frame found may never have
 * reached the disk (it may come from the page cache after a failed fdatasync): `open` writes it again and syncs.
 * A rewrite is published by the rename of `NAME-current` alone; before it the old file counts, after it the new.
 *
 * Version rule: a reader refuses a greater version (`format-version`); a change of any field raises it.
 */
import { crc32 } from 'node:zlib';
import { isTidemarkError, TidemarkError } from './errors.js';
import type { Storage, StorageFile } from './storage.js';

const magic = 0x4c524d54;
const version = 1;
const fileHeaderBytes = 24;
const frameHeaderBytes = 12;
/** Payload of one frame; one record must fit. */
export const frameBytesMax = 4 * 1024 * 1024;
/** A frame gathers queued records up to this many bytes. */
export const frameBytesGoal = 256 * 1024;

export interface OpenFile {
  readonly file: StorageFile;
  readonly generation: number;
  /** Number and end of the last valid frame. */
  readonly frameNumber: number;
  readonly endBytes: number;
}

export function fileName(name: string, generation: number): string {
  return `${name}-${String(generation).padStart(10, '0')}`;
}

export function pathOf(directory: string, name: string, generation: number): string {
  return `${directory}/${fileName(name, generation)}`;
}

function corrupt(path: string, what: string): TidemarkError {
  return new TidemarkError('journal-corrupt', `The record log is damaged: ${what}.`, { path });
}

export function encodeFrame(generation: number, number: number, texts: readonly string[]): Buffer {
  const payload = Buffer.from(texts.map((text) => text + '\n').join(''), 'utf8');
  const frame = Buffer.alloc((frameHeaderBytes + payload.length + 7) & ~7);
  frame.writeUInt32LE(payload.length, 0);
  frame.writeUInt32LE(number, 8);
  payload.copy(frame, frameHeaderBytes);
  frame.writeUInt32LE(frameChecksum(generation, payload.length, number, payload), 4);
  return frame;
}

function frameChecksum(generation: number, payloadBytes: number, number: number, payload: Uint8Array): number {
  const head = Buffer.alloc(12);
  head.writeUInt32LE(generation, 0);
  head.writeUInt32LE(payloadBytes, 4);
  head.writeUInt32LE(number, 8);
  return crc32(payload, crc32(head));
}

/** The payload of the frame at `at` when it is valid and its number is `numberMin`…`numberMax`. */
function decodeFrame(
  bytes: Buffer,
  at: number,
  generation: number,
  numberMin: number,
  numberMax: number,
): Buffer | undefined {
  if (at + frameHeaderBytes > bytes.length) return undefined;
  const payloadBytes = bytes.readUInt32LE(at);
  const number = bytes.readUInt32LE(at + 8);
  const start = at + frameHeaderBytes;
  if (payloadBytes === 0 || payloadBytes > frameBytesMax || start + payloadBytes > bytes.length) return undefined;
  if (number < numberMin || number > numberMax) return undefined;
  const payload = bytes.subarray(start, start + payloadBytes);
  return frameChecksum(generation, payloadBytes, number, payload) === bytes.readUInt32LE(at + 4) ? payload : undefined;
}

/** Creates (over any left-over) a file with the texts, fdatasynced; the name is not yet durable. */
export async function createFile(
  storage: Storage,
  directory: string,
  name: string,
  generation: number,
  texts: readonly string[],
): Promise<OpenFile> {
  const path = pathOf(directory, name, generation);
  await storage.remove(path);
  const file = await storage.open(path, 'create');
  try {
    const header = Buffer.alloc(fileHeaderBytes);
    header.writeUInt32LE(magic, 0);
    header.writeUInt32LE(version, 4);
    header.writeUInt32LE(generation, 8);
    const pieces: Uint8Array[] = [header];
    let frameNumber = 0;
    for (let from = 0; from < texts.length;) {
      let to = from;
      for (let bytes = 0; to < texts.length; to++) {
        const textBytes = Buffer.byteLength(texts[to] ?? '') + 1;
        if (bytes > 0 && bytes + textBytes > frameBytesGoal) break;
        bytes += textBytes;
      }
      pieces.push(encodeFrame(generation, ++frameNumber, texts.slice(from, to)));
      from = to;
    }
    header.writeUInt32LE(frameNumber, 12);
    header.writeUInt32LE(crc32(header.subarray(0, 16)), 16);
    await file.writeAll(pieces, 0);
    await file.datasync();
    return { file, generation, frameNumber, endBytes: pieces.reduce((sum, piece) => sum + piece.length, 0) };
  } catch (error) {
    await file.close().catch(() => undefined);
    throw error;
  }
}

export async function publish(storage: Storage, directory: string, name: string, generation: number): Promise<void> {
  const temporary = `${directory}/${name}-current.tmp`;
  const target = fileName(name, generation);
  await storage.remove(temporary);
  const file = await storage.open(temporary, 'create');
  try {
    await file.write(Buffer.from(`${target} ${crc32(target).toString(16).padStart(8, '0')}\n`), 0);
    await file.datasync();
  } finally {
    await file.close();
  }
  // The new records file must have a durable name before anything points at it.
  await storage.syncDirectory(directory);
  await storage.rename(temporary, `${directory}/${name}-current`);
  await storage.syncDirectory(directory);
}

async function readWhole(file: StorageFile): Promise<Buffer> {
  const bytes = Buffer.alloc(await file.sizeBytes());
  const count = await file.read(bytes, 0);
  return bytes.subarray(0, count);
}

/** The generation that `NAME-current` names; undefined when there is no pointer. */
export async function readPointer(storage: Storage, directory: string, name: string): Promise<number | undefined> {
  const path = `${directory}/${name}-current`;
  let file: StorageFile;
  try {
    file = await storage.open(path, 'read');
  } catch (error) {
    if (isTidemarkError(error, 'storage-not-found')) return undefined;
    throw error;
  }
  const text = (await readWhole(file).finally(() => file.close())).toString('latin1');
  const [target = '', checksum] = text.trimEnd().split(' ');
  const generation = Number(target.slice(name.length + 1));
  if (target !== fileName(name, generation) || parseInt(checksum ?? '', 16) !== crc32(target)) {
    throw corrupt(path, 'the pointer to the current file cannot be read');
  }
  return generation;
}

async function generationsOf(storage: Storage, directory: string, name: string): Promise<number[]> {
  const names = await storage.list(directory);
  return names
    .filter((entry) => entry.startsWith(`${name}-`) && /^\d{10}$/.test(entry.slice(name.length + 1)))
    .map((entry) => Number(entry.slice(name.length + 1)));
}

/** Without a pointer nothing was ever acknowledged: only the empty file of a first start cut short may be there. */
export async function refuseOrphans(storage: Storage, directory: string, name: string): Promise<void> {
  for (const generation of await generationsOf(storage, directory, name)) {
    const path = pathOf(directory, name, generation);
    const file = await storage.open(path, 'read');
    const bytes = await readWhole(file).finally(() => file.close());
    if (decodeFrame(bytes, fileHeaderBytes, generation, 1, 1)) {
      throw corrupt(path, `${name}-current is missing and this file has records`);
    }
  }
}

export async function removeOthers(
  storage: Storage,
  directory: string,
  name: string,
  generation: number,
): Promise<void> {
  await storage.remove(`${directory}/${name}-current.tmp`);
  for (const other of await generationsOf(storage, directory, name)) {
    if (other !== generation) await storage.remove(pathOf(directory, name, other));
  }
}

/** Reads all records into `records`, cuts a torn tail, and makes what is left durable. */
export async function openFile(
  storage: Storage,
  directory: string,
  name: string,
  generation: number,
  records: unknown[],
): Promise<OpenFile> {
  const path = pathOf(directory, name, generation);
  const file = await storage.open(path, 'write').catch((error: unknown) => {
    throw isTidemarkError(error, 'storage-not-found') ? corrupt(path, 'the current file is missing') : error;
  });
  try {
    const bytes = await readWhole(file);
    checkFileHeader(path, bytes, generation);
    let at = fileHeaderBytes;
    let frameNumber = 0;
    let last: Buffer | undefined;
    let lastAt = at;
    for (;;) {
      const payload = decodeFrame(bytes, at, generation, frameNumber + 1, frameNumber + 1);
      if (payload === undefined) break;
      for (const line of payload.toString('utf8').split('\n')) if (line !== '') records.push(JSON.parse(line));
      const end = Math.min((at + frameHeaderBytes + payload.length + 7) & ~7, bytes.length);
      last = bytes.subarray(at, end);
      lastAt = at;
      at = (at + frameHeaderBytes + payload.length + 7) & ~7;
      frameNumber++;
    }
    if (frameNumber < bytes.readUInt32LE(12)) throw corrupt(path, `frame ${frameNumber + 1} of the snapshot is bad`);
    // A frame goes out only after the one before it is durable, so a valid later frame proves damage.
    const numberMax = frameNumber + 1 + Math.ceil((bytes.length - at) / 16);
    for (let probe = at + 8; probe < bytes.length; probe += 8) {
      if (decodeFrame(bytes, probe, generation, frameNumber + 2, numberMax)) {
        throw corrupt(path, `frame ${frameNumber + 1} at byte ${at} is bad and later ones are valid`);
      }
    }
    await file.truncate(at);
    if (last) await file.write(last, lastAt);
    await file.datasync();
    return { file, generation, frameNumber, endBytes: at };
  } catch (error) {
    await file.close().catch(() => undefined);
    throw error;
  }
}

function checkFileHeader(path: string, bytes: Buffer, generation: number): void {
  if (bytes.length < fileHeaderBytes || bytes.readUInt32LE(0) !== magic) throw corrupt(path, 'no file header');
  if (bytes.readUInt32LE(16) !== crc32(bytes.subarray(0, 16))) throw corrupt(path, 'the checksum of the file header');
  const found = bytes.readUInt32LE(4);
  if (found > version) {
    throw new TidemarkError('format-version', `Record log version ${found} is newer than ${version}.`, { path });
  }
  if (found !== version || bytes.readUInt32LE(8) !== generation) throw corrupt(path, 'the file header');
}
