/** The configuration's JSON Schema and its page in the documentation, made from the zod schema. */
import { z } from 'zod';
import { agentConfigSchema } from './schema.js';

interface JsonSchema {
  title?: string;
  type?: string;
  description?: string;
  default?: unknown;
  const?: unknown;
  enum?: unknown[];
  properties?: Record<string, JsonSchema>;
  required?: string[];
  items?: JsonSchema;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
}

/** For editors: docs/config.schema.json. */
export function configJsonSchema(): JsonSchema {
  return {
    title: 'Tidemark agent configuration',
    ...(z.toJSONSchema(agentConfigSchema, { io: 'input', target: 'draft-2020-12' }) as JsonSchema),
  };
}

/** The reference part of docs/config.md: one row for each property. */
export function configReference(): string {
  const rows: string[] = ['| property | type | default | meaning |', '|---|---|---|---|'];
  visit(configJsonSchema(), '', rows);
  return `${rows.join('\n')}\n`;
}

function visit(schema: JsonSchema, prefix: string, rows: string[]): void {
  for (const branch of schema.oneOf ?? schema.anyOf ?? []) visit(branch, prefix, rows);
  if (schema.items) visit(schema.items, `${prefix}[]`, rows);
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    const path = prefix === '' ? name : `${prefix}.${name}`;
    const required = schema.required?.includes(name) === true;
    const fallback =
      property.default === undefined ? (required ? 'required' : '') : `\`${JSON.stringify(property.default)}\``;
    const text = (property.description ?? '').replaceAll('|', '\\|');
    const row = `| \`${path}\` | ${typeName(property)} | ${fallback} | ${text} |`;
    if (!rows.includes(row)) rows.push(row);
    visit(property, path, rows);
  }
}

function typeName(schema: JsonSchema): string {
  if (schema.const !== undefined) return `\`${String(schema.const)}\``;
  if (schema.enum) return schema.enum.map((value) => `\`${String(value)}\``).join(', ');
  const branches = schema.anyOf ?? schema.oneOf;
  if (branches) return [...new Set(branches.map(typeName))].join(' or ');
  return schema.type === 'array' ? 'list' : (schema.type ?? 'any');
}
