/** What the hook command promises, and what it runs. */
import type { HookDocument } from './hook.js';

/** Its programs are the person's own; this page of POSIX says what the shell around them does. */
const source = 'https://pubs.opengroup.org/onlinepubs/9699919799/utilities/V3_chap02.html';

export const commandDocument: HookDocument = {
  promise:
    'What your own programs make true: the point is marked between a quiesce that ended with 0 and the release. They run as the guest agent (root) or the SSH user, with TIDEMARK_VM and TIDEMARK_STEP in their environment. The guest runs release by itself after releaseAfterSeconds when the agent has not.',
  findings: {
    'released-early': 'The guest ran release by itself, or that it did not cannot be proven: the hold took too long.',
  },
  statements: [
    { step: 'prepare', statement: '<prepare>', why: 'Optional; outside of the hold.', source },
    {
      step: 'quiesce',
      statement: 'setsid sh -c "sleep <releaseAfterSeconds>; <release>" & <quiesce>',
      why: 'Exit status 0: the application is held. Anything else: it is released, and the point is crash with the status and the standard error.',
      source,
    },
    {
      step: 'release',
      statement: '<release>; kill <sleep>',
      why: 'Exit status 0: the application is free; tried again otherwise. Only then the guest no longer does it by itself; the sleep that could be killed proves that it had not.',
      source,
    },
    { step: 'verify', statement: '<verify>', why: 'Optional; exit status 0. What it prints is kept as proof.', source },
    {
      step: 'undo',
      statement: 'kill <sleep>; <undo>',
      why: 'Ends what an earlier agent left held. Without undo: release.',
      source,
    },
    {
      step: 'afterRecovery',
      statement: '<afterRecovery>',
      why: 'Optional; in the recovered VM before its readiness.',
      source,
    },
  ],
  testedAgainst: 'real',
};
