/** How this program starts itself again: as the single executable, or as a script that Node runs. */
import { isSea } from 'node:sea';

export interface OwnCommand {
  readonly file: string;
  readonly args: string[];
  /** The environment without what is meant for this process alone. */
  readonly env: NodeJS.ProcessEnv;
}

export function ownCommand(...args: string[]): OwnCommand {
  const { NODE_OPTIONS: _options, NOTIFY_SOCKET: _notify, ...env } = process.env;
  return { file: process.execPath, args: [...(isSea() ? [] : [process.argv[1] ?? '']), ...args], env };
}
