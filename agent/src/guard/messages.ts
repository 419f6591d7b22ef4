/** What agent and guard say to each other over the IPC channel of the process. Both are the same executable. */
export type ToGuard =
  | {
      readonly kind: 'start';
      readonly agentPid: number;
      readonly letGoMs: number;
      /** Where let-go records are written. */
      readonly directory: string;
      /** Of every line of the log. */
      readonly logFields: Readonly<Record<string, string>>;
    }
  /** Comes with the socket's handle. */
  | { readonly kind: 'hold'; readonly number: number; readonly group: string; readonly exportName: string }
  | { readonly kind: 'drop'; readonly number: number }
  /** `oldestMs`: age of the oldest write that the agent has not answered, at the moment of the report. */
  | { readonly kind: 'report'; readonly number: number; readonly oldestMs: number }
  /** The agent ends in order: its silence is no hang any more. */
  | { readonly kind: 'stand-down' };

/** Answers each report. */
export interface ToAgent {
  readonly kind: 'seen';
  readonly number: number;
}

/** From one report of the agent to the next. */
export const reportMs = 100;
