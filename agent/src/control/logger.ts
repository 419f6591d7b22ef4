/**
 * The agent's log: one JSON object a line on stderr (for people on a terminal: one line of text). Fields are stable:
 * `level`, `time` (ISO), `event` (kebab-case, for programs), `group`, `peer`, `view`, `operation`, `code`, `err`, `msg`.
 * Values under names that may hold a secret are never written.
 */
import pino, { type DestinationStream, type Logger as PinoLogger } from 'pino';
import pc from 'picocolors';

export type Logger = Pick<PinoLogger, 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal'> & {
  child(fields: Record<string, unknown>): Logger;
};

const secretNames = [
  'key',
  'password',
  'passphrase',
  'secret',
  'token',
  'authorization',
  'encryptionKey',
  'credential',
];
const redact = { paths: secretNames.flatMap((name) => [name, `*.${name}`, `*.*.${name}`]), censor: '[secret]' };

export interface LogOptions {
  readonly level: string;
  /** Stable fields of every line, e.g. agent and site. */
  readonly fields?: Readonly<Record<string, unknown>>;
  readonly pretty?: boolean;
  readonly destination: DestinationStream;
}

export interface ControllableLogger extends PinoLogger {
  level: string;
}

export function createLogger(options: LogOptions): ControllableLogger {
  const { destination: sink } = options;
  const destination: DestinationStream = options.pretty ? { write: (line) => void sink.write(prettyLine(line)) } : sink;
  return pino(
    {
      level: options.level,
      base: { ...options.fields },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact,
    },
    destination,
  );
}

const colours: Readonly<Record<string, (text: string) => string>> = {
  warn: pc.yellow,
  error: pc.red,
  fatal: pc.red,
  info: pc.cyan,
};

function prettyLine(line: string): string {
  const {
    time,
    level,
    msg,
    err,
    pid: _pid,
    hostname: _hostname,
    ...fields
  } = JSON.parse(line) as Record<string, unknown>;
  const rest = Object.entries(fields).map(
    ([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`,
  );
  const paint = colours[String(level)] ?? ((text: string) => text);
  const stack = (err as { stack?: string } | undefined)?.stack;
  return `${String(time).slice(11, 23)} ${paint(String(level).padEnd(5))} ${String(msg ?? '')} ${pc.dim(rest.join(' '))}\n${stack === undefined ? '' : `${stack}\n`}`;
}
