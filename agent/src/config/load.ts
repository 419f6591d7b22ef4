/** Reads a configuration file (YAML, of which JSON is a part) and says where it is wrong. */
import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { isNode, LineCounter, parseDocument, type Document } from 'yaml';
import type { z } from 'zod';
import { TidemarkError } from '../core/errors.js';
import { flatten, propertyPath, type Path } from '../service/issues.js';
import { agentConfigSchema, type AgentConfig } from './schema.js';

/** Larger files are refused before they are parsed. */
export const configBytesMax = 4 * 1024 * 1024;

/** Throws `config-invalid` with every wrong property, one in each line; `path` is `FILE:LINE:property` of the first. */
export async function loadConfig(file: string): Promise<AgentConfig> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    throw new TidemarkError('config-invalid', `cannot read ${file}: ${(cause as Error).message}`, {
      path: file,
      cause,
    });
  }
  return resolvePaths(parseConfig(text, file), dirname(resolve(file)));
}

/** {@link loadConfig} without the disk; relative paths stay as they are. */
export function parseConfig(text: string, file: string): AgentConfig {
  return parseYaml(text, file, agentConfigSchema);
}

/** Parses and checks YAML by a schema. */
export function parseYaml<Schema extends z.ZodType>(text: string, file: string, schema: Schema): z.infer<Schema> {
  if (Buffer.byteLength(text) > configBytesMax)
    throw new TidemarkError('config-invalid', `${file} is larger than ${configBytesMax} bytes`, { path: file });
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const broken = document.errors[0];
  if (broken !== undefined) {
    const where = `${file}:${lines.linePos(broken.pos[0]).line}`;
    throw new TidemarkError('config-invalid', `${where}: ${broken.message}`, { path: where, cause: broken });
  }
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: 100 });
  } catch (cause) {
    throw new TidemarkError('config-invalid', `${file}: ${(cause as Error).message}`, { path: file, cause });
  }
  const result = schema.safeParse(value ?? {});
  if (result.success) return result.data;
  const found = result.error.issues
    .flatMap((issue) => flatten(issue))
    .map(({ path, message }) => ({
      where: `${file}:${lineOf(document, lines, path)}: ${propertyPath(path)}`,
      message,
    }));
  throw new TidemarkError('config-invalid', found.map(({ where, message }) => `${where}: ${message}`).join('\n'), {
    path: found[0]!.where,
  });
}

/** Line of the property, or of the nearest parent that is in the file. */
function lineOf(document: Document, lines: LineCounter, path: Path): number {
  for (let length = path.length; length > 0; length--) {
    const node: unknown = document.getIn(path.slice(0, length), true);
    if (isNode(node) && node.range) return lines.linePos(node.range[0]).line;
  }
  return 1;
}

/** Relative paths are relative to the file that they stand in. */
function resolvePaths(config: AgentConfig, directory: string): AgentConfig {
  const absolute = (path: string): string => resolve(directory, path);
  return {
    ...config,
    dataDirectory: absolute(config.dataDirectory),
    tls: {
      certificate: absolute(config.tls.certificate),
      key: absolute(config.tls.key),
      authority: absolute(config.tls.authority),
    },
    listen: {
      ...config.listen,
      nbd: { ...config.listen.nbd, socketDirectory: absolute(config.listen.nbd.socketDirectory) },
    },
    buffers: {
      ...config.buffers,
      ...(config.buffers.spoolDirectory === undefined
        ? {}
        : { spoolDirectory: absolute(config.buffers.spoolDirectory) }),
    },
    targetGroups: config.targetGroups.map((group) => ({
      ...group,
      ...(group.encryptionKeyFile === undefined ? {} : { encryptionKeyFile: absolute(group.encryptionKeyFile) }),
    })),
  };
}
