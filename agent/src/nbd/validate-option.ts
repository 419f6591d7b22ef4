/** The edge of the server's handshake: the data of each option, checked fully; undefined when it is malformed. */
import { isUtf8 } from 'node:buffer';
import { stringBytesMax } from './protocol.js';

/** An export name or query: UTF-8, no NUL, at most `stringBytesMax` bytes. */
export function validName(bytes: Buffer): string | undefined {
  if (bytes.length > stringBytesMax || !isUtf8(bytes) || bytes.includes(0)) return undefined;
  return bytes.toString('utf8');
}

/** A string with its u32 length before it. */
function stringAt(data: Buffer, at: number): { text: string; end: number } | undefined {
  if (data.length < at + 4) return undefined;
  const end = at + 4 + data.readUInt32BE(at);
  if (end > data.length) return undefined;
  const text = validName(data.subarray(at + 4, end));
  return text === undefined ? undefined : { text, end };
}

/** INFO and GO: name | count u16 | info u16 …, nothing after. */
export function parseExportRequest(data: Buffer): { name: string; infos: Set<number> } | undefined {
  const name = stringAt(data, 0);
  if (name === undefined || data.length < name.end + 2) return undefined;
  const count = data.readUInt16BE(name.end);
  if (data.length !== name.end + 2 + 2 * count) return undefined;
  const infos = new Set<number>();
  for (let index = 0; index < count; index++) infos.add(data.readUInt16BE(name.end + 2 + 2 * index));
  return { name: name.text, infos };
}

/** LIST and SET_META_CONTEXT: name | count u32 | query …, nothing after. */
export function parseMetaRequest(data: Buffer): { name: string; queries: string[] } | undefined {
  const name = stringAt(data, 0);
  if (name === undefined || data.length < name.end + 4) return undefined;
  const count = data.readUInt32BE(name.end);
  const queries: string[] = [];
  let at = name.end + 4;
  for (let index = 0; index < count; index++) {
    const query = stringAt(data, at);
    if (query === undefined) return undefined;
    queries.push(query.text);
    at = query.end;
  }
  return at === data.length ? { name: name.text, queries } : undefined;
}
