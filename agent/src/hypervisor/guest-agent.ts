/**
 * The QEMU guest agent of one VM. It carries out one command at a time, and while the guest is frozen it refuses all but
 * `guest-fsfreeze-status` and `guest-fsfreeze-thaw`; it believes that it is frozen until `guest-fsfreeze-thaw` was called,
 * whoever thawed. Its reference: https://qemu-project.gitlab.io/qemu/interop/qemu-ga-ref.html
 */
export interface GuestAgent {
  /**
   * The command's `return`. Throws `guest-agent` with its own words, `hook-blocked` when it forbids the command, or
   * `timed-out`: the command may still be carried out, and the next ones wait for it.
   */
  call(command: string, args: Readonly<Record<string, unknown>>, timeoutMs: number): Promise<unknown>;
  /** Gets everything ready that a call needs, so that the next one goes out at once. */
  warm(): Promise<void>;
  /** Idempotent; a later call opens it again. */
  close(): void;
  /** When the last short call was written, and when its reply could be read: of `performance.now()`. */
  readonly writtenMs: number;
  readonly repliedMs: number;
}
