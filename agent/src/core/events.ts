/** Where decisions are told, once, by their owner: the log, the event ring of the API, the simulation's counters. */
export interface EventSink {
  /** `code` is stable kebab-case; `fields` hold plain values, never a secret. */
  emit(code: string, fields: Readonly<Record<string, unknown>>): void;
}
