/** Decides whether a repeated operation id means the same operation. */

/** JSON with sorted keys and without undefined properties: equal texts are equal requests. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) => {
    if (part === null || typeof part !== 'object' || Array.isArray(part)) return part;
    return Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
  });
}

interface Identity {
  readonly kind: string;
  readonly group: string;
  readonly arguments: Readonly<Record<string, unknown>>;
}

/** Kind, group and arguments decide; `expect` says when it may start, not what it is. */
export function isSameRequest(a: Identity, b: Identity): boolean {
  return a.kind === b.kind && a.group === b.group && canonicalJson(a.arguments) === canonicalJson(b.arguments);
}
