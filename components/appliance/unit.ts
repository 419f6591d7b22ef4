/** The systemd unit of an appliance: the packaged one (packaging/tidemark-agent.service), with its own paths. */
import type { ServicePlace } from './layout.js';

declare const __TIDEMARK_UNIT__: string;

export function unitText({ directory, dataDirectory, mountPoint }: ServicePlace): string {
  const own = [
    `ExecStart=${directory}/current/tidemark agent run --config ${directory}/current/agent.yaml`,
    `ReadWritePaths=${directory} ${dataDirectory}`,
  ];
  const lines = __TIDEMARK_UNIT__.split('\n').flatMap((line) => {
    if (line.startsWith('ExecStart=')) return own;
    // Its directories are those of the appliance.
    if (/^(RuntimeDirectory|StateDirectory|ConfigurationDirectory)\w*=/.test(line)) return [];
    // Never an empty directory in place of a journal.
    if (line === '[Unit]' && mountPoint !== '')
      return [line, `RequiresMountsFor=${mountPoint}`, `AssertPathIsMountPoint=${mountPoint}`];
    return [line];
  });
  return lines.join('\n');
}
