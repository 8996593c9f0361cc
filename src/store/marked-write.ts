/**
 * A batch that a server carries out at most once, however often it is sent. Since the answer to a batch that was carried out may
 * be lost, the batch begins by recording a mark of its own. Sent again, it fails at the mark if it was carried out before, and
 * the mark tells what it changed. An abandoned batch is settled: the mark alone is recorded, and any attempt still in flight
 * fails at it. Before the mark stands the attempt's deadline by the server's clock. It refuses an attempt that arrives late when
 * the batch could not be settled: by then the caller has been told that it may be done, and others may have written.
 */

import { randomUUID } from 'node:crypto';
import { type Connection, text } from './connection.ts';
import { AttemptTimeoutError, kindOf } from './failures.ts';
import { asGuardFailure, brokenAt, guard, type Statement } from './guards.ts';

/** Positions of the deadline and the mark in the batch. */
const deadlineAt = 0;
const markAt = 1;

const insertMark = 'INSERT INTO vault_writes (id, changed, written_at) VALUES (?, ?, unixepoch())';
/** The value of a mark that was recorded without the batch. */
const notDone = 'not done';

/** How far a server's clock may fall behind its estimate, including timers that fire early. */
const clockMarginMs = 50;

/** An estimate of a server's clock. */
export class ServerClock {
  readonly #connection: Connection;
  /** How far it is ahead of `performance.now()`, in seconds; null until it has been read. */
  #offset: number | null = null;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /**
   * The server's time, in seconds, at a moment by `performance.now()`. The reading is dated to the arrival of its answer, so the
   * estimate lags the clock by the time of the way back, and is never ahead of it.
   */
  async at(timeMs: number): Promise<number> {
    if (this.#offset === null) {
      const { rows } = await this.#connection.execute({ sql: "SELECT unixepoch('subsec') AS now" });
      this.#offset = Number(rows[0]?.now) - performance.now() / 1000;
    }
    return this.#offset + timeMs / 1000;
  }

  /**
   * Checks what the clock showed after a moment by `performance.now()`: a value below the estimate means that it was set back.
   */
  check(shown: number, afterMs: number): void {
    if (this.#offset !== null && shown < this.#offset + (afterMs - clockMarginMs) / 1000) this.forget();
  }

  forget(): void {
    this.#offset = null;
  }
}

export class MarkedWrite {
  readonly #connection: Connection;
  readonly #clock: ServerClock;
  readonly #id = randomUUID();
  readonly #count: number;
  /** Deadlines of the attempts of which it is unknown whether they were, or will be, carried out. */
  readonly #unsettled = new Set<number>();
  /** The statements of the batch, without the deadline. */
  readonly statements: readonly Statement[];

  constructor(connection: Connection, clock: ServerClock, statements: readonly Statement[]) {
    this.#connection = connection;
    this.#clock = clock;
    this.#count = statements.length;
    this.statements = [
      { sql: `${insertMark} RETURNING unixepoch('subsec') AS now`, args: [this.#id, ''] },
      ...statements.flatMap((statement) => [
        statement,
        { sql: "UPDATE vault_writes SET changed = changed || changes() || ' ' WHERE id = ?", args: [this.#id] },
      ]),
    ];
  }

  /** Whether the outcome of some attempt is unknown: then call {@link settle}, and report nothing before. */
  get isUnsettled(): boolean {
    return this.#unsettled.size > 0;
  }

  /** The moment, by `performance.now()`, after which none of these attempts can be carried out, settled or not. */
  get overAtMs(): number {
    return Math.max(...this.#unsettled) + clockMarginMs;
  }

  /** Makes one attempt, abandoned at `endsAtMs`. Returns how many rows each statement changed. */
  async send(endsAtMs: number): Promise<number[]> {
    const batch = this.#batch(await this.#clock.at(endsAtMs));
    const sentAtMs = performance.now();
    this.#unsettled.add(endsAtMs);
    try {
      const results = await this.#connection.batch(batch, endsAtMs);
      this.#clock.check(Number(results[markAt]?.rows[0]?.now), sentAtMs);
      return Array.from({ length: this.#count }, (_, index) => results[markAt + 1 + 2 * index]?.rowsAffected ?? 0);
    } catch (error) {
      if (kindOf(error) !== 'lost') this.#unsettled.delete(endsAtMs);
      if (brokenAt(error) !== deadlineAt) throw error;
      this.#clock.forget();
      throw new AttemptTimeoutError('It reached the server too late.');
    }
  }

  /**
   * Settles the outcome: returns how many rows each statement changed if an attempt was carried out, or null if none was and none
   * will be. May safely run twice.
   */
  async settle(endsAtMs: number): Promise<number[] | null> {
    const sql = `${insertMark} ON CONFLICT (id) DO UPDATE SET changed = changed RETURNING changed`;
    const [result] = await this.#connection.batch([{ sql, args: [this.#id, notDone] }], endsAtMs);
    const changed = text(result?.rows[0] ?? {}, 'changed');
    return changed === notDone ? null : changed.trim().split(' ').map(Number);
  }

  /** The error of the last attempt: GuardFailedError if one of its guards caused it. */
  asGuardFailure(error: unknown): unknown {
    return asGuardFailure(error, this.#batch(0));
  }

  #batch(deadline: number): Statement[] {
    return [guard('deadline', "unixepoch('subsec') < ?", [deadline]), ...this.statements];
  }
}
