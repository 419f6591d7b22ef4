/** What differs between old and new inputs, property by property. Nothing here ever asks for a replacement. */
import { propertyPath } from '../../agent/src/service/issues.js';
import { unknown, type Path } from './values.js';

export type ChangeKind = 'add' | 'delete' | 'update';

/** By property path. */
export function detailedDiff(before: unknown, after: unknown): Map<string, ChangeKind> {
  const changes = new Map<string, ChangeKind>();
  compare(before, after, [], changes);
  return changes;
}

function compare(before: unknown, after: unknown, path: Path, changes: Map<string, ChangeKind>): void {
  if (before === after && before !== unknown) return;
  if (before === undefined) return void changes.set(propertyPath(path), 'add');
  if (after === undefined) return void changes.set(propertyPath(path), 'delete');
  if (!isContainer(before) || !isContainer(after) || Array.isArray(before) !== Array.isArray(after))
    return void changes.set(propertyPath(path), 'update');
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)]))
    compare(before[key], after[key], [...path, Array.isArray(before) ? Number(key) : key], changes);
}

function isContainer(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === 'object';
}
