/** Commands without an agent at the other end: agent run, config check, pki. */
import type { Command } from 'commander';
import { loadConfig } from '../../config/load.js';
import { TidemarkError } from '../../core/errors.js';
import { initAuthority, issueInto } from '../../pki/directory.js';
import { roleSchema } from '../../service/agent-schemas.js';
import type { CliContext } from '../command.js';

const defaultConfig = '/etc/tidemark/agent.yaml';

export function addLocalCommands(program: Command, context: CliContext): void {
  const print = (command: Command, value: unknown, text: string): void =>
    context.terminal.out(
      command.optsWithGlobals<{ json?: boolean }>().json === true ? `${JSON.stringify(value, null, 2)}\n` : text,
    );

  program
    .command('agent')
    .description('the daemon')
    .command('run')
    .description('run the agent in the foreground; SIGTERM drains, SIGHUP reloads')
    .option('--config <file>', 'configuration file', defaultConfig)
    .action((options: { config: string }) => context.runAgent(options.config));

  program
    .command('config')
    .description('the configuration file')
    .command('check')
    .argument('[file]', 'configuration file', defaultConfig)
    .description('check it and say where it is wrong')
    .action(async (file: string, _options, command: Command) => {
      const config = await loadConfig(file);
      const text = `${file} is valid: agent ${config.site}/${config.agent}, ${config.sourceGroups.length} source and ${config.targetGroups.length} target groups\n`;
      print(command, config, text);
    });

  const pki = program.command('pki').description('a small certificate authority, for trying out');
  pki
    .command('init')
    .argument('<directory>')
    .description('make an authority (ca.crt, ca.key)')
    .action(async (directory: string, _options, command: Command) => {
      const files = await initAuthority(directory);
      print(command, files, `authority ${files.certificate}\n`);
    });
  pki
    .command('issue')
    .argument('<name>', 'CN: name of the agent or person')
    .description('issue a certificate (NAME.crt, NAME.key)')
    .requiredOption('--directory <directory>', 'where the authority is')
    .option('--role <role>', 'operator, peer or reader: shows what to put into the configuration', 'reader')
    .option('--host <host...>', 'further names and addresses that clients dial')
    .option('--days <days>', 'how long it is valid', '825')
    .action(
      async (
        name: string,
        options: { directory: string; role: string; host?: string[]; days: string },
        command: Command,
      ) => {
        const role = roleSchema.safeParse(options.role);
        if (!role.success)
          throw new TidemarkError(
            'request-invalid',
            `--role is operator, peer or reader, not ${JSON.stringify(options.role)}`,
            { path: 'role' },
          );
        const days = Number(options.days);
        if (!(days > 0 && days <= 36_500))
          throw new TidemarkError(
            'request-invalid',
            `--days is a number up to 36500, not ${JSON.stringify(options.days)}`,
            { path: 'days' },
          );
        const files = await issueInto(options.directory, name, {
          days,
          ...(options.host === undefined ? {} : { hosts: options.host }),
        });
        const entry =
          role.data === 'peer' ? `peers:\n  - { name: ${name} }` : `access:\n  - { name: ${name}, role: ${role.data} }`;
        print(
          command,
          { ...files, name, role: role.data },
          `certificate ${files.certificate}\nin the configuration of each agent:\n${entry}\n`,
        );
      },
    );
}
