declare module 'postject' {
  /** Puts `data` into the executable as the named note and flips the sentinel fuse. */
  export function inject(
    file: string,
    resource: string,
    data: Buffer,
    options: { sentinelFuse: string },
  ): Promise<void>;
}
