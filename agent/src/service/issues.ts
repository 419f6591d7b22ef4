/** Issues of a zod schema, in words and property paths that a person knows. */
import type { z } from 'zod';

export type Path = readonly PropertyKey[];

/** An unknown property is named itself, not its parent; of a union the branch that came nearest is shown. */
export function flatten(issue: z.core.$ZodIssue, parent: Path = []): { path: Path; message: string }[] {
  const path = [...parent, ...issue.path];
  if (issue.code === 'unrecognized_keys')
    return issue.keys.map((key) => ({ path: [...path, key], message: 'unknown property' }));
  if (issue.code === 'invalid_union' && issue.errors.length > 0) {
    const nearest = issue.errors.reduce((best, errors) => (depth(errors) > depth(best) ? errors : best));
    return nearest.flatMap((inner) => flatten(inner, path));
  }
  return [{ path, message: issue.message }];
}

function depth(issues: readonly z.core.$ZodIssue[]): number {
  // A wrong type at the top says that another branch was meant.
  return Math.max(...issues.map((issue) => issue.path.length * 2 + (issue.code === 'invalid_type' ? 0 : 1)));
}

/** `sourceGroups[0].disks[1].name`, `labels["a.b"]`: as Pulumi writes property paths, too. */
export function propertyPath(path: Path): string {
  if (path.length === 0) return '(whole)';
  return path
    .map((key, index) => {
      if (typeof key === 'number') return `[${key}]`;
      if (!/^[\w$-]+$/.test(String(key))) return `[${JSON.stringify(String(key))}]`;
      return index === 0 ? String(key) : `.${String(key)}`;
    })
    .join('');
}
