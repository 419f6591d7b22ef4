/** What the hook mongodb promises, and what it runs. */
import type { HookDocument } from './hook.js';

const manual = 'https://www.mongodb.com/docs/manual';
const lock = `${manual}/reference/command/fsync/`;
const unlock = `${manual}/reference/command/fsyncUnlock/`;

export const mongodbDocument: HookDocument = {
  promise:
    'Every write that the server had acknowledged before the hold is in the point, none that came after it; all is flushed, and writes wait meanwhile. On a secondary this is what it had replicated by then: what only the primary had is not in it. A start recovers from the last checkpoint of WiredTiger, which the lock made. The lock of MongoDB does not end with its connection: the guest unlocks by itself after releaseAfterSeconds when the agent has not.',
  findings: {
    mongos: 'It is mongos, not a server with data.',
    'sharded-cluster':
      'The server belongs to a sharded cluster: points of its servers do not fit together while data moves.',
    version: 'Before MongoDB 7.0.2: a lock has no limit there, and would wait in front of users.',
    'storage-engine': 'Not WiredTiger: what the lock promises is not known.',
    'journal-off': 'The journal is off: writes since the last checkpoint would be lost.',
    'not-ready': 'A member that is neither primary nor secondary (starting, recovering, rolling back).',
    primary: 'The primary of a set with other members, and lockPrimary is not set.',
    'locked-by-others': 'An fsyncLock of somebody else is held already.',
    'data-unprotected': 'The data path or its journal lies on no captured disk of the group.',
    'lock-lost': 'The session ended, the server was restarted, or the guest unlocked by itself before the release.',
  },
  statements: [
    {
      step: 'prepare',
      statement: '{ hello: 1 }, { serverStatus: 1 }, { getCmdLineOpts: 1 }',
      why: 'Findings: msg isdbgrid is mongos; isWritablePrimary, secondary; storageEngine.name; storage.dbPath, storage.journal, sharding.clusterRole.',
      source: `${manual}/reference/command/hello/`,
    },
    {
      step: 'prepare',
      statement: '{ currentOp: 1 }',
      why: 'fsyncLock is there, and true, while somebody holds the lock.',
      source: `${manual}/reference/command/currentOp/`,
    },
    {
      step: 'quiesce',
      statement: 'setsid sh -c "sleep <releaseAfterSeconds>; mongosh … { fsyncUnlock: 1 }" &',
      why: 'The guest unlocks by itself when this agent dies: closing the connection does not.',
      source: unlock,
    },
    {
      step: 'quiesce',
      statement: '{ fsync: 1, lock: true, fsyncLockAcquisitionTimeoutMillis: <lockWaitSeconds> }',
      why: 'ok 1 and lockCount: all is flushed, and writes wait. Files on one volume with their journal may be copied then. A lock not granted in time is an error, and the server gives it up.',
      source: lock,
    },
    {
      step: 'release',
      statement: '{ fsyncUnlock: 1 }',
      why: 'ok 1 with the lockCount that is left, in the same session. An error says that it was not locked any more.',
      source: unlock,
    },
    {
      step: 'verify',
      statement: 'lockCount of both; kill <sleep>',
      why: 'Both answers came from the session that was opened before, and the guest had not unlocked by itself.',
      source: unlock,
    },
    {
      step: 'undo',
      statement: '{ currentOp: 1 }, { fsyncUnlock: 1 }',
      why: 'Only where the shell that would unlock is still there: without it the lock is not ours.',
      source: unlock,
    },
  ],
  testedAgainst: 'dialogue',
};
