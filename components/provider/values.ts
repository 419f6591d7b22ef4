/**
 * Property values as the Pulumi protocol carries them, to plain values and back. A secret is an object with a signature,
 * an unknown (preview only) a fixed text. Inside the provider a value is plain; which paths are secret goes beside it.
 */
import struct from 'google-protobuf/google/protobuf/struct_pb.js';
import type { Struct } from 'google-protobuf/google/protobuf/struct_pb.js';

const signatureKey = '4dabf18193072939515e22adb298388d';
const secretSignature = '1b47061264138c4ac30d75fd1eb44270';
const outputSignature = 'd0e6a833031e9bbcd3f4e8bde6ca49a4';
const unknownText = '04da6b54-80e4-46f7-96ec-b56ff0331ba9';

/** A value that is not known before the update. */
export const unknown: unique symbol = Symbol('unknown');

export type Properties = Record<string, unknown>;
export type Path = readonly (string | number)[];

export interface Decoded {
  readonly values: Properties;
  /** JSON texts of the paths whose values are secret. */
  readonly secrets: ReadonlySet<string>;
}

export const noProperties: Decoded = { values: {}, secrets: new Set() };

export function decode(message: Struct | undefined): Decoded {
  const secrets = new Set<string>();
  const values = message === undefined ? {} : (decodeValue(message.toJavaScript(), [], secrets) as Properties);
  return { values, secrets };
}

function decodeValue(value: unknown, path: Path, secrets: Set<string>): unknown {
  if (value === unknownText) return unknown;
  if (Array.isArray(value)) return value.map((item, index) => decodeValue(item, [...path, index], secrets));
  if (value === null || typeof value !== 'object') return value;
  const object = value as Properties;
  if (object[signatureKey] === secretSignature) {
    secrets.add(JSON.stringify(path));
    return decodeValue(object['value'], path, secrets);
  }
  if (object[signatureKey] === outputSignature) {
    if (object['secret'] === true) secrets.add(JSON.stringify(path));
    return 'value' in object ? decodeValue(object['value'], path, secrets) : unknown;
  }
  // Absent and null are the same to us.
  const entries = Object.entries(object).filter(([, item]) => item !== null);
  return Object.fromEntries(entries.map(([key, item]) => [key, decodeValue(item, [...path, key], secrets)]));
}

/** Wraps what lies at the secret paths; properties that are undefined are left out. */
export function encode(values: Properties, secrets: ReadonlySet<string> = new Set()): Struct {
  return struct.Struct.fromJavaScript(encodeValue(values, [], secrets) as never);
}

function encodeValue(value: unknown, path: Path, secrets: ReadonlySet<string>): unknown {
  const plain = encodePlain(value, path, secrets);
  return secrets.has(JSON.stringify(path)) ? { [signatureKey]: secretSignature, value: plain } : plain;
}

function encodePlain(value: unknown, path: Path, secrets: ReadonlySet<string>): unknown {
  if (value === unknown) return unknownText;
  if (Array.isArray(value)) return value.map((item, index) => encodeValue(item, [...path, index], secrets));
  if (value === null || typeof value !== 'object') return value;
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  return Object.fromEntries(entries.map(([key, item]) => [key, encodeValue(item, [...path, key], secrets)]));
}

/** Paths of everything unknown. */
export function unknownPaths(value: unknown, path: Path = []): Path[] {
  if (value === unknown) return [path];
  if (value === null || typeof value !== 'object') return [];
  return Object.entries(value).flatMap(([key, item]) =>
    unknownPaths(item, [...path, Array.isArray(value) ? Number(key) : key]),
  );
}

/** The texts at the secret paths, which no message may show; also what `label:` and the like stand before. */
export function secretTexts({ values, secrets }: Decoded): string[] {
  const whole = [...secrets].flatMap((path) => texts(at(values, JSON.parse(path) as Path)));
  return whole.flatMap((text) => [text, ...(/^[a-z]+:(.+)$/s.exec(text)?.slice(1) ?? [])]);
}

/** Shorter secrets taint only what equals them. */
const containedLengthMin = 4;

/** The secret paths of outputs: those of the inputs, and wherever a secret text shows again. */
export function secretPaths(outputs: Properties, inputs: Decoded): Set<string> {
  const paths = new Set(inputs.secrets);
  const secret = secretTexts(inputs);
  const visit = (value: unknown, path: Path): void => {
    if (typeof value === 'string') {
      const shows = (text: string): boolean =>
        value === text || (text.length >= containedLengthMin && value.includes(text));
      // An output that shows one is secret as a whole: not every consumer finds a secret deep inside.
      if (secret.some(shows)) paths.add(JSON.stringify(path[0]! in inputs.values ? path : path.slice(0, 1)));
      return;
    }
    if (value === null || typeof value !== 'object') return;
    for (const [key, item] of Object.entries(value)) visit(item, [...path, Array.isArray(value) ? Number(key) : key]);
  };
  if (secret.length > 0) visit(outputs, []);
  return paths;
}

function at(value: unknown, path: Path): unknown {
  return path.reduce<unknown>((inner, key) => (inner as Record<string | number, unknown> | undefined)?.[key], value);
}

function texts(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  if (value === null || typeof value !== 'object') return [];
  return Object.values(value).flatMap(texts);
}
