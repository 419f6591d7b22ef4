/** The systemd unit of an appliance: the packaged one (packaging/tidemark-agent.service), with its own paths. */
import type { ServicePlace } from './layout.js';

declare const __TIDEMARK_UNIT__: string;

export function unitText({ directory, dataDirectory, mountPoint }: ServicePlace): string {
  const own = [
    // With all rights, and outside of the service's view of the file systems.
    ...(mountPoint === '' ? [] : [`ExecStartPre=+/bin/sh ${mountPoint}.mount ${mountPoint}`]),
    `ExecStart=${directory}/current/tidemark agent run --config ${directory}/current/agent.yaml`,
    `ReadWritePaths=${directory} ${dataDirectory}`,
  ];
  const lines = __TIDEMARK_UNIT__.split('\n').flatMap((line) => {
    if (line.startsWith('ExecStart=')) return own;
    // Its directories are those of the appliance.
    return /^(RuntimeDirectory|StateDirectory|ConfigurationDirectory)\w*=/.test(line) ? [] : [line];
  });
  return lines.join('\n');
}
