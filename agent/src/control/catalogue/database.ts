/** The catalogue's SQLite database. Synchronous: lives in its worker thread (or in a test). */
import { rmSync } from 'node:fs';
import { DatabaseSync, type SQLInputValue } from 'node:sqlite';
import { invariant } from '../../core/invariant.js';
import type { Checkpoint, CheckpointPage, CheckpointQuery } from '../../service/checkpoint-schemas.js';
import type { Operation, OperationPage, OperationQuery } from '../../service/operation-schemas.js';
import type { CatalogueChange, Mark } from './catalogue.js';

/** Another number in the file: it is deleted and remade from the truth. */
const schemaVersion = 1;

const schema = `
  create table mark (grp text primary key, generation text not null, position integer not null) strict, without rowid;
  create table checkpoint (
    grp text not null, id text not null, kind text not null, label text, time_ms real not null, complete integer not null,
    body text not null, primary key (grp, id)
  ) strict, without rowid;
  create index checkpoint_kind on checkpoint (grp, kind, id);
  create index checkpoint_label on checkpoint (grp, label, id) where label is not null;
  create index checkpoint_time on checkpoint (grp, time_ms, id);
  create table operation (
    id text primary key, grp text not null, kind text not null, state text not null, started_ms real not null, body text not null
  ) strict, without rowid;
  create index operation_time on operation (started_ms, id);
  create index operation_group on operation (grp, started_ms, id);
  pragma user_version = ${schemaVersion};
`;

/** Rows of a rebuild; sent in pieces so that no message is unbounded. */
export type CatalogueRows = Pick<CatalogueChange, 'checkpoints' | 'operations'>;

export class CatalogueDatabase {
  readonly #db: DatabaseSync;

  /** A file that is damaged, or of another version, is deleted: it is only an index. */
  constructor(file: string) {
    this.#db = open(file) ?? remake(file);
  }

  mark(group: string): Mark | undefined {
    const row = this.#one('select generation, position from mark where grp = ?', group);
    return row && { generation: row['generation'] as string, position: row['position'] as number };
  }

  put(change: CatalogueChange): boolean {
    return this.#transaction(() => {
      const mark = this.mark(change.group);
      if (mark?.generation !== change.generation || mark.position !== change.before) return false;
      this.#insert(change.group, change);
      for (const id of change.checkpointsRemoved ?? [])
        this.#run('delete from checkpoint where grp = ? and id = ?', change.group, id);
      this.#run('update mark set position = ? where grp = ?', change.after, change.group);
      return true;
    });
  }

  /** Between begin and end the group has no mark: a crash in between leaves one that must be rebuilt. */
  rebuildBegin(group: string): void {
    this.#transaction(() => this.#forget(group));
  }

  rebuildRows(group: string, rows: CatalogueRows): void {
    this.#transaction(() => this.#insert(group, rows));
  }

  rebuildEnd(group: string, mark: Mark): void {
    this.#run('insert or replace into mark values (?, ?, ?)', group, mark.generation, mark.position);
  }

  removeGroup(group: string): void {
    this.#transaction(() => this.#forget(group));
  }

  checkpoints(group: string, query: CheckpointQuery): CheckpointPage {
    const where = new Where().add('grp = ?', group);
    if (query.kind !== undefined) where.add('kind = ?', query.kind);
    if (query.label !== undefined) where.add('label = ?', query.label);
    if (query.fromMs !== undefined) where.add('time_ms >= ?', query.fromMs);
    if (query.toMs !== undefined) where.add('time_ms <= ?', query.toMs);
    if (query.complete !== undefined) where.add('complete = ?', Number(query.complete));
    if (query.before !== undefined) where.add('id < ?', query.before);
    const rows = this.#all(
      `select body from checkpoint ${where.text} order by id desc limit ?`,
      ...where.values,
      query.limit + 1,
    );
    const checkpoints = rows.slice(0, query.limit).map((row) => JSON.parse(row['body'] as string) as Checkpoint);
    return { checkpoints, next: rows.length > query.limit ? checkpoints.at(-1)!.id : null };
  }

  checkpoint(group: string, id: string): Checkpoint | undefined {
    const row = this.#one('select body from checkpoint where grp = ? and id = ?', group, id);
    return row && (JSON.parse(row['body'] as string) as Checkpoint);
  }

  operations(query: OperationQuery): OperationPage {
    const where = new Where();
    if (query.group !== undefined) where.add('grp = ?', query.group);
    if (query.kind !== undefined) where.add('kind = ?', query.kind);
    if (query.state !== undefined) where.add('state = ?', query.state);
    if (query.before !== undefined)
      where.add('(started_ms, id) < (select started_ms, id from operation where id = ?)', query.before);
    const rows = this.#all(
      `select body from operation ${where.text} order by started_ms desc, id desc limit ?`,
      ...where.values,
      query.limit + 1,
    );
    const operations = rows.slice(0, query.limit).map((row) => JSON.parse(row['body'] as string) as Operation);
    return { operations, next: rows.length > query.limit ? operations.at(-1)!.id : null };
  }

  operation(id: string): Operation | undefined {
    const row = this.#one('select body from operation where id = ?', id);
    return row && (JSON.parse(row['body'] as string) as Operation);
  }

  close(): void {
    this.#db.close();
  }

  #insert(group: string, rows: CatalogueRows): void {
    for (const point of rows.checkpoints ?? []) {
      const { id, kind, label, sourceTimeMs, complete } = point;
      this.#run(
        'insert or replace into checkpoint values (?, ?, ?, ?, ?, ?, ?)',
        group,
        id,
        kind,
        label,
        sourceTimeMs,
        Number(complete),
        JSON.stringify(point),
      );
    }
    for (const operation of rows.operations ?? []) {
      const { id, kind, state, startedMs } = operation;
      this.#run(
        'insert or replace into operation values (?, ?, ?, ?, ?, ?)',
        id,
        group,
        kind,
        state,
        startedMs,
        JSON.stringify(operation),
      );
    }
  }

  #forget(group: string): void {
    for (const table of ['mark', 'checkpoint', 'operation']) this.#run(`delete from ${table} where grp = ?`, group);
  }

  #transaction<Result>(work: () => Result): Result {
    this.#db.exec('begin immediate');
    try {
      const result = work();
      this.#db.exec('commit');
      return result;
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec('rollback');
      throw error;
    }
  }

  readonly #statements = new Map<string, ReturnType<DatabaseSync['prepare']>>();

  #prepare(sql: string): ReturnType<DatabaseSync['prepare']> {
    let statement = this.#statements.get(sql);
    if (statement === undefined) this.#statements.set(sql, (statement = this.#db.prepare(sql)));
    return statement;
  }

  #run(sql: string, ...values: SQLInputValue[]): void {
    this.#prepare(sql).run(...values);
  }

  #one(sql: string, ...values: SQLInputValue[]): Record<string, unknown> | undefined {
    return this.#prepare(sql).get(...values);
  }

  #all(sql: string, ...values: SQLInputValue[]): Record<string, unknown>[] {
    return this.#prepare(sql).all(...values);
  }
}

class Where {
  readonly #parts: string[] = [];
  readonly values: SQLInputValue[] = [];

  add(condition: string, value: SQLInputValue): this {
    this.#parts.push(condition);
    this.values.push(value);
    return this;
  }

  get text(): string {
    return this.#parts.length === 0 ? '' : `where ${this.#parts.join(' and ')}`;
  }
}

/** Undefined when the file is no sound catalogue of this version. */
function open(file: string): DatabaseSync | undefined {
  let db: DatabaseSync | undefined;
  try {
    db = new DatabaseSync(file);
    db.exec('pragma journal_mode = wal; pragma synchronous = full; pragma busy_timeout = 5000');
    const version = db.prepare('pragma user_version').get()?.['user_version'];
    if (version === 0 && db.prepare('select count(*) as n from sqlite_schema').get()?.['n'] === 0) {
      db.exec(`begin; ${schema}; commit`);
      return db;
    }
    const sound = version === schemaVersion && db.prepare('pragma quick_check(1)').get()?.['quick_check'] === 'ok';
    if (sound) return db;
  } catch {
    // Deleted and remade by the caller.
  }
  db?.close();
  return undefined;
}

function remake(file: string): DatabaseSync {
  for (const suffix of ['', '-wal', '-shm', '-journal']) rmSync(`${file}${suffix}`, { force: true });
  const db = open(file);
  invariant(db !== undefined, `a new catalogue cannot be made at ${file}`);
  return db;
}
