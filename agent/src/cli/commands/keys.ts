/** tidemark key export: on the agent's host, without the agent, so that a key is never in an answer of its API. */
import { open } from 'node:fs/promises';
import type { Command } from 'commander';
import { loadConfig } from '../../config/load.js';
import { isTidemarkError, TidemarkError } from '../../core/errors.js';
import { storageError } from '../../platform/node-errors.js';
import { NodeStorage } from '../../platform/node-storage.js';
import { KeyFiles } from '../../runtime/key-files.js';
import { readKeyFile } from '../../runtime/key-source.js';
import { RetiredGroups } from '../../runtime/retired-groups.js';
import type { CliContext } from '../command.js';

const defaultConfig = '/etc/tidemark/agent.yaml';

interface Escrowed {
  readonly group: string;
  readonly keyFile: string;
  /** 64 hexadecimal digits, as the key file has them. */
  readonly key: string;
}

export function addKeyCommands(program: Command, context: CliContext): void {
  program
    .command('key')
    .description('keys of encrypted groups')
    .command('export')
    .argument('<file>', 'new file; only its owner may read it')
    .option('--config <file>', "the agent's configuration file", defaultConfig)
    .description("for escrow: write every key that this host's journals need, also of removed groups that are kept")
    .action(async (file: string, { config }: { config: string }, command: Command) => {
      const { agent, site, dataDirectory, targetGroups } = await loadConfig(config);
      const storage = new NodeStorage();
      const known = new KeyFiles(storage, dataDirectory);
      await known.load();
      for (const { name, encryptionKeyFile } of targetGroups)
        if (encryptionKeyFile !== undefined) known.set(name, encryptionKeyFile);
      const retired = (await new RetiredGroups(storage, `${dataDirectory}/groups`).list()).flatMap(
        ({ name, policy }): [string, string][] =>
          policy?.spec.encryptionKeyFile === undefined ? [] : [[name, policy.spec.encryptionKeyFile]],
      );
      const files = new Map([...known.entries(), ...retired].map((entry) => [entry.join('\0'), entry]));
      const { keys, missing } = await readAll([...files.values()]);
      await writeNew(file, `${JSON.stringify({ agent, site, keys }, null, 2)}\n`);
      if (missing.length > 0)
        throw new TidemarkError('encryption-key', `${file} lacks keys that cannot be read: ${missing.join('; ')}`);
      const groups = keys.map(({ group }) => group);
      const { json } = command.optsWithGlobals<{ json?: boolean }>();
      const text = `${file}: keys of ${groups.join(', ') || 'no group'}; take it off this host\n`;
      context.terminal.out(json === true ? `${JSON.stringify({ file, groups }, null, 2)}\n` : text);
    });
}

async function readAll(
  files: readonly (readonly [string, string])[],
): Promise<{ keys: Escrowed[]; missing: string[] }> {
  const keys: Escrowed[] = [];
  const missing: string[] = [];
  for (const [group, keyFile] of files) {
    try {
      keys.push({ group, keyFile, key: Buffer.from(await readKeyFile(keyFile)).toString('hex') });
    } catch (error) {
      if (!isTidemarkError(error)) throw error;
      missing.push(`${group} (${error.message})`);
    }
  }
  return { keys, missing };
}

/** Never over what is there. */
async function writeNew(file: string, text: string): Promise<void> {
  try {
    const handle = await open(file, 'wx', 0o600);
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (cause) {
    throw storageError('write', file, cause);
  }
}
