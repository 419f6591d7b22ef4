/** Randomness as a parameter: production uses the operating system's, the simulation a seeded generator. */
export interface Random {
  /** Uniform in [0, 1). */
  float(): number;
  /** `count` random bytes. */
  bytes(count: number): Uint8Array;
}
