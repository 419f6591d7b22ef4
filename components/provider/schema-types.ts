/** zod schemas to the types of a Pulumi package schema: objects become named types, unions oneOf. */
import { z } from 'zod';

export interface TypeSpec {
  type?: string;
  $ref?: string;
  items?: TypeSpec;
  additionalProperties?: TypeSpec;
  oneOf?: TypeSpec[];
}
export interface PropertySpec extends TypeSpec {
  description?: string;
  secret?: boolean;
}
export interface ObjectSpec {
  type: 'object';
  description?: string;
  properties: Record<string, PropertySpec>;
  required?: string[];
}

interface Json {
  type?: string;
  description?: string;
  default?: unknown;
  const?: unknown;
  enum?: unknown[];
  properties?: Record<string, Json>;
  required?: string[];
  items?: Json;
  anyOf?: Json[];
  oneOf?: Json[];
  additionalProperties?: Json | boolean;
  maximum?: number;
  secret?: boolean;
  typeName?: string;
}

const int32Max = 2 ** 31 - 1;
const scalarTypes = ['string', 'boolean', 'number'];

export class Types {
  readonly specs: Record<string, ObjectSpec> = {};

  /** `names`: what the types of these schemas are called wherever they stand; others are named by their place. */
  constructor(private readonly names: ReadonlyMap<z.ZodType, string>) {}

  /** Properties of an object schema; `place` begins the names of types inside. */
  object(schema: z.ZodType, place: string, io: 'input' | 'output' = 'input'): ObjectSpec {
    const json = z.toJSONSchema(schema, {
      io,
      unrepresentable: 'any',
      override: ({ zodSchema, jsonSchema }) => {
        const name = this.#nameOf(zodSchema);
        if (name !== undefined) (jsonSchema as Json).typeName = name;
      },
    }) as Json;
    return this.#object(json, place);
  }

  /** Also of a schema that was described anew, which is a copy. */
  #nameOf(schema: z.core.$ZodType | undefined): string | undefined {
    if (schema === undefined) return undefined;
    return this.names.get(schema as z.ZodType) ?? this.#nameOf(schema._zod.parent);
  }

  #object(json: Json, place: string): ObjectSpec {
    const properties = Object.entries(json.properties ?? {}).map(([name, property]): [string, PropertySpec] => [
      name,
      { ...this.#type(property, place + capital(name)), ...describe(property) },
    ]);
    const required = (json.required ?? []).filter((name) => !isNullable(json.properties?.[name]));
    return {
      type: 'object',
      ...(json.description === undefined ? {} : { description: json.description }),
      properties: Object.fromEntries(properties),
      ...(required.length === 0 ? {} : { required }),
    };
  }

  #type(json: Json, place: string): TypeSpec {
    const branches = (json.anyOf ?? json.oneOf)?.filter(({ type }) => type !== 'null');
    if (branches?.length === 1) return this.#type(branches[0]!, place);
    if (branches !== undefined) return this.#union(branches, place);
    if (json.properties !== undefined) return this.#named(json, json.typeName ?? place);
    if (json.type === 'object') {
      const { additionalProperties: values } = json;
      return typeof values === 'object' && Object.keys(values).length > 0
        ? { type: 'object', additionalProperties: this.#type(values, place) }
        : { type: 'object', additionalProperties: { $ref: 'pulumi.json#/Any' } };
    }
    if (json.type === 'array') return { type: 'array', items: this.#type(json.items ?? {}, place) };
    if (json.type === 'integer') return { type: (json.maximum ?? Infinity) <= int32Max ? 'integer' : 'number' };
    const scalar = json.type ?? typeof (json.const ?? json.enum?.[0]);
    return scalarTypes.includes(scalar) ? { type: scalar } : { $ref: 'pulumi.json#/Any' };
  }

  #union(branches: Json[], place: string): TypeSpec {
    const types = branches.map((branch) => {
      const kind = branch.properties?.['kind']?.const ?? branch.properties?.['by']?.const;
      return this.#type(branch, typeof kind === 'string' ? place + kind.split('-').map(capital).join('') : place);
    });
    const distinct = [...new Map(types.map((type) => [JSON.stringify(type), type])).values()];
    return distinct.length === 1 ? distinct[0]! : { oneOf: distinct };
  }

  #named(json: Json, name: string): TypeSpec {
    const token = `tidemark:index:${name}`;
    // What it is for is said where it is used.
    const { description: _description, ...spec } = this.#object(json, name);
    const known = this.specs[token];
    if (known !== undefined && JSON.stringify(known) !== JSON.stringify(spec))
      throw new Error(`two types of the package are named ${name}`);
    this.specs[token] = spec;
    return { $ref: `#/types/${token}` };
  }
}

function isNullable(json: Json | undefined): boolean {
  return (json?.anyOf ?? json?.oneOf)?.some(({ type }) => type === 'null') === true;
}

function describe({ description, default: fallback, enum: values, secret }: Json): PropertySpec {
  const words = [
    ...(description === undefined ? [] : [`${description.replace(/\.$/, '')}.`]),
    ...(values === undefined ? [] : [`One of ${values.map((value) => `\`${String(value)}\``).join(', ')}.`]),
    ...(fallback === undefined ? [] : [`Default: \`${JSON.stringify(fallback)}\`.`]),
  ];
  return {
    ...(words.length === 0 ? {} : { description: words.join(' ') }),
    ...(secret === true ? { secret } : {}),
  };
}

function capital(name: string): string {
  return name.charAt(0).toUpperCase() + name.slice(1);
}
