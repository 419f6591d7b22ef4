/**
 * The one table of expected failures. A code is stable for ever; `docs/errors.md` lists the same codes (a test keeps
 * them equal). `retry`: trying the same again later may succeed. `hint`: what a person can do.
 */
export const errorTable = {
  // storage
  'storage-not-found': { retry: false, hint: 'Check the path; the file or directory is not there.' },
  'storage-exists': { retry: false, hint: 'Remove or rename the existing file, or choose another path.' },
  'storage-full': { retry: true, hint: 'Free space on the file system, or lower journal.hardLimitBytes.' },
  'storage-io': { retry: true, hint: 'The disk reported an error; check the kernel log and the device.' },
  // network and peers
  'peer-unreachable': { retry: true, hint: 'Check the address, the firewall and that the peer agent runs.' },
  'peer-refused': { retry: false, hint: 'Check both certificates and that each site lists the other as a peer.' },
  'peer-unknown': { retry: false, hint: 'List the peers with `tidemark agent peers`.' },
  'peer-exists': {
    retry: false,
    hint: 'The peer stands in the configuration file, or belongs to another stack: change it there.',
  },
  'peer-api-unknown': {
    retry: false,
    hint: 'Set peers[].api of that peer to HOST:PORT of its control API, and reload the agent.',
  },
  'protocol-error': { retry: true, hint: 'The peer sent bytes that the protocol forbids; compare both versions.' },
  'protocol-version': { retry: false, hint: 'Upgrade the older of the two agents.' },
  // replication
  'stale-epoch': {
    retry: false,
    hint: 'The direction of the group changed meanwhile: a source is fenced, and its data is kept; a request is computed anew. See `tidemark status`.',
  },
  'stale-incarnation': { retry: true, hint: 'A newer start of this source agent is known; restart the older one.' },
  fork: { retry: false, hint: 'Both sides hold history the other lacks; choose one with `tidemark group resolve`.' },
  gap: { retry: true, hint: 'A sequence is missing; the source resends from the last durable one.' },
  'durable-regression': { retry: false, hint: 'The target lost data it had called durable; a delta sync repairs it.' },
  'group-unknown': { retry: false, hint: 'Declare the group on the target agent first.' },
  'group-not-opened': {
    retry: true,
    hint: 'Its data is there and could not be opened: see `tidemark agent health`, then the key or the disk.',
  },
  'group-exists': { retry: false, hint: 'A group of this name exists with other disks; choose another name.' },
  seeding: { retry: true, hint: 'Wait; the source connects by itself when the replica holds its seed.' },
  'disk-missing': {
    retry: false,
    hint: 'Give the disk back to the source group, or give it up with `tidemark group forget-disk`.',
  },
  'disk-refused': {
    retry: false,
    hint: 'Raise diskSizeMax of the target group, set its newDisks to accept, or declare the disk there.',
  },
  'disk-unknown': { retry: false, hint: 'List the disks with `tidemark status --json`.' },
  'illegal-state': { retry: false, hint: 'See the legal actions for the present state in `tidemark status`.' },
  // journal, replica, views
  'journal-corrupt': { retry: false, hint: 'A durable record is damaged; run `tidemark verify`, then a delta sync.' },
  'journal-full': { retry: true, hint: 'Raise journal.hardLimitBytes, or free pins and views.' },
  'replica-mismatch': {
    retry: false,
    hint: 'Replica bytes do not match their digest; a connected source sends them again. Look at the disk of the target.',
  },
  'checkpoint-unknown': { retry: false, hint: 'List the checkpoints with `tidemark checkpoints`.' },
  'checkpoint-incomplete': { retry: false, hint: 'This checkpoint misses a disk; choose one marked complete.' },
  'checkpoint-expired': { retry: false, hint: 'Retention removed it meanwhile; choose a newer checkpoint.' },
  'view-unknown': { retry: false, hint: 'List the open views with `tidemark view list`.' },
  'view-busy': { retry: true, hint: 'Disconnect the clients of the view first.' },
  'scratch-full': { retry: true, hint: 'Raise the scratch limit of the view or close it.' },
  'scratch-corrupt': {
    retry: false,
    hint: 'The private data of the view is damaged; open a new view of the checkpoint.',
  },
  'encryption-key': { retry: false, hint: 'The journal is encrypted; give the key it was written with.' },
  'format-version': { retry: false, hint: 'Written by a newer Tidemark; upgrade this agent.' },
  // hypervisors
  'hypervisor-unreachable': { retry: true, hint: 'Check that the daemon runs and that the agent may use its socket.' },
  'hypervisor-failed': { retry: true, hint: "Read the hypervisor's own words in the message." },
  'definition-unknown': {
    retry: false,
    hint: 'This checkpoint has no definition of the VM; choose one that was made after the VM was attached.',
  },
  'guest-agent': { retry: true, hint: 'Check that the guest has booted and that qemu-guest-agent runs in it.' },
  'hook-failed': {
    retry: true,
    hint: "Read the application's own words in the message; the point was kept as crash, the application was released.",
  },
  'hook-blocked': {
    retry: false,
    hint: 'Allow guest-exec and guest-exec-status in the guest agent (BLACKLIST_RPC or --block-rpcs), or give the hook ssh.',
  },
  'hooks-none': { retry: false, hint: 'Declare hooks of the source group, or make a tagged checkpoint.' },
  'vm-not-ready': {
    retry: true,
    hint: 'Look at the console of the VM; raise timeoutSeconds of the check when it only needs longer.',
  },
  'network-not-isolated': {
    retry: false,
    hint: 'Something else uses the network of the drill; remove it, or choose recovery.testNetwork.',
  },
  'network-refused': {
    retry: false,
    hint: 'A libvirt session (qemu:///session) may make no network: use qemu:///system, or name one that leads nowhere in recovery.testNetwork.',
  },
  'network-unknown': {
    retry: false,
    hint: 'Create the network on the hypervisor, or map it in recovery.vms[].networks.',
  },
  'vm-not-stopped': {
    retry: true,
    hint: 'Shut the guest down by hand, give it more time (--timeout), or end it after that time (--force-off).',
  },
  'source-running': {
    retry: false,
    hint: 'Stop what writes to these disks, then say so (--source-stopped).',
  },
  split: {
    retry: false,
    hint: 'Look at both sides. To give the old one up, ask again with --discard-source: its VMs are ended, their disks are kept.',
  },
  'direction-damaged': {
    retry: false,
    hint: 'Restore the file from a backup, or write it anew with the help of `tidemark status` of the other site.',
  },
  'declaration-damaged': {
    retry: false,
    hint: 'Restore the file from a backup, or remove it and declare the source group or peer again.',
  },
  'source-interrupted': {
    retry: true,
    hint: 'The source VMs run again; wait until the group protects, then try again.',
  },
  'vm-unknown': { retry: false, hint: 'List the VMs with `tidemark vm list`.' },
  'vm-refused': {
    retry: false,
    hint: 'This VM or disk cannot be protected as it is; the message says what to change.',
  },
  // control
  'host-unreachable': { retry: true, hint: 'Check the address of the host, its sshd and the way to it.' },
  'host-key-mismatch': {
    retry: false,
    hint: 'Compare with `ssh-keyscan` over a way that you trust. A host that was built anew has a new key; anything else is an attack.',
  },
  'host-refused': { retry: false, hint: 'Check user, key and authorized_keys of the host.' },
  'host-failed': { retry: true, hint: "Read the host's own words in the message." },
  'device-not-empty': {
    retry: false,
    hint: 'Take another device. When nothing on it is needed: wipefs -a, then blkdiscard or zeros in its first and last MiB.',
  },
  'config-invalid': { retry: false, hint: 'Correct the named property of the configuration file.' },
  'request-invalid': { retry: false, hint: 'Correct the named property of the request.' },
  'operation-conflict': { retry: false, hint: 'The operation id was used with other arguments; take a new id.' },
  'operation-running': { retry: true, hint: 'Another operation holds the group; wait for it or cancel it.' },
  'operation-unknown': { retry: false, hint: 'List the operations with `tidemark operations`.' },
  'stale-revision': {
    retry: false,
    hint: 'The policy changed meanwhile; read the group again (pulumi refresh), then decide.',
  },
  'route-unknown': { retry: false, hint: 'Check the address and that client and agent have the same version.' },
  overloaded: { retry: true, hint: 'Too many requests or event streams at once; wait a little.' },
  'timed-out': { retry: true, hint: 'It took longer than the limit of this request and may still go on; look again.' },
  internal: { retry: false, hint: 'This is a bug in Tidemark; please report it with the log of the agent.' },
  unauthorised: { retry: false, hint: 'Present a certificate that this agent trusts.' },
  forbidden: { retry: false, hint: 'Use a certificate with the needed role (operator, peer or reader).' },
  'barrier-broken': {
    retry: true,
    hint: 'An agent did not hold in time; the next interval tries again. When all fail, raise the group’s holdMsMax to twice the round trip.',
  },
  'sync-unavailable': { retry: false, hint: 'The export has no readable source; give `source` for a mirror export.' },
  'shutting-down': { retry: true, hint: 'The agent is stopping; try again when it is back.' },
} as const satisfies Record<string, { retry: boolean; hint: string }>;

export type ErrorCode = keyof typeof errorTable;

/** An expected failure: `code` is for programs, `message` says what happened and what it means, `path` names where. */
export class TidemarkError extends Error {
  override readonly name = 'TidemarkError';
  readonly code: ErrorCode;
  /** The file, or the property path of the input, that the failure is about. */
  readonly path: string | undefined;

  constructor(code: ErrorCode, message: string, options: { path?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.path = options.path;
  }

  get retry(): boolean {
    return errorTable[this.code].retry;
  }

  get hint(): string {
    return errorTable[this.code].hint;
  }
}

/** True for a {@link TidemarkError}, of the given code when one is named. */
export function isTidemarkError(error: unknown, code?: ErrorCode): error is TidemarkError {
  return error instanceof TidemarkError && (code === undefined || error.code === code);
}
