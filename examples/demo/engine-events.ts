/** What the engine says while a command runs, read from its event log as that grows: messages, steps, outputs that change. */
import { closeSync, openSync, readSync } from 'node:fs';
import { z } from 'zod';

const lookMs = 150;
const chunkBytes = 64 * 1024;

const stateSchema = z.object({ outputs: z.record(z.string(), z.unknown()).nullish() }).nullish();
const metadataSchema = z.object({
  op: z.string(),
  urn: z.string(),
  type: z.string(),
  old: stateSchema,
  new: stateSchema,
});
const eventSchema = z.object({
  diagnosticEvent: z
    .object({ message: z.string(), severity: z.string(), ephemeral: z.boolean().optional() })
    .optional(),
  resOutputsEvent: z.object({ metadata: metadataSchema }).optional(),
});

const signs: Readonly<Record<string, string>> = { create: '+', update: '~', delete: '-', import: '=' };

export interface Listener {
  /** Replaces what was said before. */
  onStatus(text: string): void;
  /** Stays. */
  onLine(text: string): void;
}

export class EngineEvents {
  readonly #timer: NodeJS.Timeout;
  readonly #decoder = new TextDecoder();
  /** A component is told twice: made, and with its outputs. */
  readonly #told = new Set<string>();
  #readBytes = 0;
  #rest = '';

  constructor(
    private readonly file: string,
    private readonly listener: Listener,
  ) {
    this.#timer = setInterval(() => this.#look(), lookMs);
  }

  /** With what was said last. */
  end(): void {
    clearInterval(this.#timer);
    this.#look();
  }

  #look(): void {
    const lines = (this.#rest + this.#read()).split('\n');
    this.#rest = lines.pop() ?? '';
    for (const line of lines) if (line !== '') this.#hear(line);
  }

  #read(): string {
    let descriptor: number;
    try {
      descriptor = openSync(this.file, 'r');
    } catch {
      return ''; // The engine has said nothing yet.
    }
    try {
      let text = '';
      const chunk = Buffer.alloc(chunkBytes);
      for (;;) {
        const count = readSync(descriptor, chunk, 0, chunkBytes, this.#readBytes);
        if (count === 0) return text;
        this.#readBytes += count;
        text += this.#decoder.decode(chunk.subarray(0, count), { stream: true });
      }
    } finally {
      closeSync(descriptor);
    }
  }

  #hear(line: string): void {
    const event = eventSchema.safeParse(JSON.parse(line));
    if (!event.success) return;
    const { diagnosticEvent: said, resOutputsEvent: done } = event.data;
    if (said !== undefined) {
      const text = said.message.replaceAll(/<\{%[^%]*%\}>/g, '').trim();
      if (said.ephemeral === true) this.listener.onStatus(text);
      else if (said.severity !== 'debug') for (const each of text.split('\n')) this.listener.onLine(each);
    }
    if (done === undefined) return;
    const { op, urn, type, old, new: made } = done.metadata;
    const sign = signs[op];
    if (type === 'pulumi:pulumi:Stack') this.#outputs(old?.outputs ?? {}, made?.outputs ?? {});
    else if (sign !== undefined && !type.startsWith('pulumi:') && !this.#told.has(urn)) {
      this.#told.add(urn);
      this.listener.onLine(`${sign} ${type.split(':').at(-1)} ${urn.split('::').at(-1)}`);
    }
  }

  /** Outputs of the program that are others now. */
  #outputs(before: Readonly<Record<string, unknown>>, after: Readonly<Record<string, unknown>>): void {
    for (const [name, value] of Object.entries(after)) {
      const [old, young] = [JSON.stringify(before[name]), JSON.stringify(value)];
      if (old === young) continue;
      this.listener.onLine(old === undefined ? `${name}: ${young}` : `${name}: ${old} => ${young}`);
    }
  }
}
