/** Positions in a group's streams, and cuts through them. */

/** A write's place in its stream. Incarnations of a stream only grow (the target gives them), whatever the epoch. */
export interface Position {
  readonly incarnation: number;
  readonly sequence: number;
}

/** A cut: for each stream index the last position that belongs to it; a stream that is missing has nothing in it. */
export type Vector = Readonly<Record<number, Position>>;

export const startPosition: Position = { incarnation: 0, sequence: 0 };

/** Negative when `a` is before `b`. */
export function comparePositions(a: Position, b: Position): number {
  return a.incarnation - b.incarnation || a.sequence - b.sequence;
}

/** True when the position of that stream lies at or before the cut. */
export function isWithin(cut: Vector, stream: number, position: Position): boolean {
  const last = cut[stream];
  return last !== undefined && comparePositions(position, last) <= 0;
}

/** True when every stream of `a` is at or before the same stream of `b`. */
export function isVectorWithin(a: Vector, b: Vector): boolean {
  return Object.entries(a).every(([stream, position]) => isWithin(b, Number(stream), position));
}
