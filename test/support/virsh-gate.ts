/**
 * Stops an agent exactly between two calls of virsh: a script of that name stands before the real one on the agent's PATH.
 * From the call that a rule names on, no call goes through until the gate is opened, or its caller died.
 */
import { chmodSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { waitFor } from './wait.js';

export interface GateRule {
  /** Held before it is carried out, or when it was and before its caller hears of it. */
  readonly when: 'before' | 'after';
  /** Extended regular expression over the call's words. */
  readonly call: string;
  /** Only behind a call with these words. */
  readonly behind?: string;
  /** Only when a file of `recordDirectory` whose name begins with `manifest` has this text. */
  readonly record?: string;
}

const script = (gate: string): string => `#!/bin/bash
gate='${gate}'
PATH=\${PATH#*:}
words="$*"
wait_open() {
  [ -d "$gate/held" ] || return
  while [ -d "$gate/held" ]; do
    kill -0 $PPID 2>/dev/null || exit 137
    sleep 0.01
  done
  # Opened behind the back of a caller that died: nothing is carried out for it.
  kill -0 $PPID 2>/dev/null || exit 137
}
hold() {
  if mkdir "$gate/held" 2>/dev/null; then rm -f "$gate/rule"; fi
  wait_open
}
wait_open
when= call= behind= record= directory=
if [ -e "$gate/rule" ]; then
  { read -r when; read -r call; read -r behind; read -r record; read -r directory; } 2>/dev/null <"$gate/rule"
  armed=yes
  if [ -n "$behind" ] && [ ! -e "$gate/behind" ]; then
    armed=
    [[ $words =~ $behind ]] && touch "$gate/behind"
  fi
  [[ $words =~ $call ]] || armed=
  if [ -n "$record" ]; then grep -qsF -- "$record" "$directory"/manifest* || armed=; fi
fi
[ "$when$armed" = beforeyes ] && hold
virsh "$@"
code=$?
[ $code = 0 ] || touch "$gate/failed"
[ "$when$armed" = afteryes ] && hold
exit $code
`;

export class VirshGate {
  /** `recordDirectory`: of the group at the target. */
  constructor(
    private readonly directory: string,
    private readonly recordDirectory: () => string,
  ) {
    const bin = join(directory, 'bin');
    mkdirSync(bin, { recursive: true });
    writeFileSync(join(bin, 'virsh'), script(directory));
    chmodSync(join(bin, 'virsh'), 0o755);
  }

  /** Of the agent whose calls pass here. */
  get env(): Record<string, string> {
    return { PATH: `${join(this.directory, 'bin')}:${process.env['PATH'] ?? ''}` };
  }

  arm({ when, call, behind = '', record = '' }: GateRule): void {
    this.open();
    writeFileSync(join(this.directory, 'rule'), `${[when, call, behind, record, this.recordDirectory()].join('\n')}\n`);
  }

  /** Resolves when a call is held. */
  async held(what: string): Promise<void> {
    await waitFor(what, () => existsSync(join(this.directory, 'held')), { timeoutMs: 60_000, everyMs: 5 });
  }

  /** Lets all through again. */
  open(): void {
    for (const name of ['rule', 'behind', 'failed', 'held'])
      rmSync(join(this.directory, name), { recursive: true, force: true });
  }

  /** Resolves when a call has failed since {@link open}. */
  async failed(): Promise<void> {
    await waitFor('a call of virsh fails', () => existsSync(join(this.directory, 'failed')), { everyMs: 5 });
  }
}
