/** What a schema says is secret (`.meta({ secret: true })`) is secret in state and messages, however it was given. */
import { z } from 'zod';
import type { Decoded, Properties } from './values.js';

interface Json {
  readonly secret?: boolean;
  readonly properties?: Readonly<Record<string, Json>>;
  readonly anyOf?: readonly Json[];
  readonly oneOf?: readonly Json[];
}

const known = new WeakMap<z.ZodType, readonly (readonly string[])[]>();

/** With the secrets of the schema besides its own, as far as they are there. */
export function withSecrets({ values, secrets }: Decoded, ...schemas: readonly z.ZodType[]): Decoded {
  const paths = schemas.flatMap(pathsOf).filter((path) => has(values, path));
  return { values, secrets: new Set([...secrets, ...paths.map((path) => JSON.stringify(path))]) };
}

function pathsOf(schema: z.ZodType): readonly (readonly string[])[] {
  const found = known.get(schema) ?? find(z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as Json, []);
  known.set(schema, found);
  return found;
}

function find(json: Json, path: readonly string[]): (readonly string[])[] {
  if (json.secret === true) return [path];
  const inside = Object.entries(json.properties ?? {}).flatMap(([name, property]) => find(property, [...path, name]));
  return [...inside, ...[...(json.anyOf ?? []), ...(json.oneOf ?? [])].flatMap((branch) => find(branch, path))];
}

function has(values: Properties, path: readonly string[]): boolean {
  const at = path.reduce<unknown>((inner, name) => (inner as Properties | undefined)?.[name], values);
  return at !== undefined && typeof at !== 'symbol';
}
