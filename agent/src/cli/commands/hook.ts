/** tidemark vm hook install */
import { chmod, mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { loadConfig } from '../../config/load.js';
import { TidemarkError } from '../../core/errors.js';
import { fencedDirectory } from '../../fencing/fence-record.js';
import { hookFileName, hookScript } from '../../fencing/hook-script.js';
import type { CliContext } from '../command.js';

/** `vm`: the command that all about VMs hangs on. */
export function addHookCommand(vm: Command, context: CliContext): void {
  vm.command('hook')
    .description("the hypervisor's own refusal to start stale VMs")
    .command('install')
    .description('on the source host: libvirt refuses to start a VM whose group was failed over')
    .option('--config <file>', "the agent's configuration file", '/etc/tidemark/agent.yaml')
    .option('--directory <directory>', "libvirt's directory of hooks", '/etc/libvirt/hooks')
    .action(async (options: { config: string; directory: string }) => {
      const config = await loadConfig(options.config);
      const directory = join(options.directory, 'qemu.d');
      const file = join(directory, hookFileName);
      try {
        await mkdir(directory, { recursive: true, mode: 0o755 });
        await writeFile(`${file}.new`, hookScript(fencedDirectory(config.dataDirectory)));
        await chmod(`${file}.new`, 0o755);
        await rename(`${file}.new`, file);
      } catch (cause) {
        throw new TidemarkError('storage-io', `cannot write ${file}: ${(cause as Error).message}`, {
          path: file,
          cause,
        });
      }
      context.terminal.out(`${file} is in place; libvirtd looks for hooks when it starts: restart it once\n`);
    });
}
