/**
 * A guest that plays one product's dialogue, for hooks that cannot be run against the product here. A dialogue is a state
 * machine: each line says in which state which statement is understood, what is answered, and which state follows. A
 * statement that the state does not know is answered with `outOfOrder`, as the product would, and is kept in `violations`:
 * a test that ends with one has failed. Programs (`run`) and held sessions (`open`) share the state.
 */
import type { GuestSession, HeldSession, ProgramOptions, ProgramResult } from '../../agent/src/hooks/guest-session.js';
import { TidemarkError } from '../../agent/src/core/errors.js';

export interface DialogueLine {
  /** States in which it is understood; left out: in all. */
  readonly in?: readonly string[];
  /** Matched against the program's words joined by blanks and its input (each line of a session alone). */
  readonly on: RegExp;
  /** To standard output. */
  readonly answer?: string | ((match: RegExpExecArray) => string);
  readonly errors?: string;
  /** Of a program; default 0. */
  readonly exitCode?: number;
  /** State from now on. */
  readonly next?: string;
  /** Never answers: the caller's deadline passes. */
  readonly hangs?: boolean;
  /** The session ends with it. */
  readonly ends?: boolean;
  /** Serves so many times, then the lines behind it are asked. */
  readonly times?: number;
}

export interface DialogueOptions {
  readonly start: string;
  readonly lines: readonly DialogueLine[];
  /** What the product says to a statement that it does not expect. */
  readonly outOfOrder: string;
  /** Of a held session, when it opens. */
  readonly greeting?: string;
  readonly transport?: GuestSession['transport'];
}

export class Dialogue implements GuestSession {
  readonly transport: GuestSession['transport'];
  state: string;
  /** All that was said, with the state in which it was. */
  readonly said: { readonly state: string; readonly text: string }[] = [];
  /** What the state did not know. */
  readonly violations: string[] = [];
  readonly sessions: ScriptedSession[] = [];
  private readonly uses = new Map<DialogueLine, number>();

  constructor(private readonly options: DialogueOptions) {
    this.state = options.start;
    this.transport = options.transport ?? 'guest-agent';
  }

  run(command: readonly string[], { input, timeoutMs }: ProgramOptions): Promise<ProgramResult> {
    const line = this.say([command.join(' '), input ?? ''].join('\n').trim());
    if (line === undefined) return Promise.resolve({ exitCode: 1, stdout: '', stderr: `${this.options.outOfOrder}\n` });
    if (line.hangs === true)
      return Promise.reject(new TidemarkError('timed-out', `${command[0]} took over ${timeoutMs} ms.`));
    return Promise.resolve({ exitCode: line.exitCode ?? 0, stdout: line.text, stderr: line.errors ?? '' });
  }

  open(command: readonly string[], { input }: ProgramOptions): Promise<HeldSession> {
    const line = this.say(command.join(' '));
    const session = new ScriptedSession(this, 4000 + this.sessions.length, this.options.greeting ?? '');
    session.heard(line?.text ?? `${this.options.outOfOrder}\n`);
    for (const text of (input ?? '').split('\n').filter((part) => part !== '')) void session.send(text);
    this.sessions.push(session);
    return Promise.resolve(session);
  }

  /** The line that understands it, with its answer; moves the state. Undefined: a violation, kept. */
  say(text: string): (DialogueLine & { readonly text: string }) | undefined {
    this.said.push({ state: this.state, text });
    for (const line of this.options.lines) {
      if (line.in !== undefined && !line.in.includes(this.state)) continue;
      const match = line.on.exec(text);
      const used = this.uses.get(line) ?? 0;
      if (match === null || used >= (line.times ?? Infinity)) continue;
      this.uses.set(line, used + 1);
      if (line.next !== undefined) this.state = line.next;
      const answer = typeof line.answer === 'function' ? line.answer(match) : (line.answer ?? '');
      return { ...line, text: answer };
    }
    this.violations.push(`in ${this.state}: ${text}`);
    return undefined;
  }

  /** What a statement out of order is answered with. */
  get outOfOrder(): string {
    return this.options.outOfOrder;
  }
}

export class ScriptedSession implements HeldSession {
  private unread: string;
  private isOver = false;

  constructor(
    private readonly dialogue: Dialogue,
    readonly pid: number,
    greeting: string,
  ) {
    this.unread = greeting;
  }

  heard(text: string): void {
    this.unread += text;
  }

  /** The product, or a network, ends it. */
  end(): void {
    this.isOver = true;
  }

  send(line: string): Promise<void> {
    if (this.isOver) return Promise.reject(new TidemarkError('hook-failed', 'The session has ended.'));
    const answer = this.dialogue.say(line);
    if (answer === undefined) this.heard(`${this.dialogue.outOfOrder}\n`);
    else if (answer.hangs !== true) this.heard(`${answer.text}${answer.errors ?? ''}`);
    if (answer?.ends === true) this.end();
    return Promise.resolve();
  }

  expect(pattern: RegExp, timeoutMs: number): Promise<string> {
    const match = pattern.exec(this.unread);
    if (match === null)
      return Promise.reject(
        this.isOver
          ? new TidemarkError('hook-failed', `The session has ended: ${this.unread.slice(-500)}`)
          : new TidemarkError('timed-out', `${String(pattern)} did not come within ${timeoutMs} ms.`),
      );
    const end = match.index + match[0].length;
    const text = this.unread.slice(0, end);
    this.unread = this.unread.slice(end);
    return Promise.resolve(text);
  }

  isOpen(): Promise<boolean> {
    return Promise.resolve(!this.isOver);
  }

  close(): Promise<void> {
    this.isOver = true;
    return Promise.resolve();
  }
}
