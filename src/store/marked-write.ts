/**
 * A batch that a server carries out once, however often it is sent. Its answer may be lost, and the batch be carried out or not: so it
 * begins by recording a mark of its own. The same batch, sent again, is refused at the mark if it was carried out before, and what it
 * changed is read there. One that is given up is settled: the mark alone is recorded, and whatever is still on its way is refused at it.
 * Before the mark stands the attempt's deadline by the server's clock: one that arrives late where it could not be settled, when its
 * caller has been told that it may be done and others may have written since, is refused there.
 */

import { randomUUID } from 'node:crypto';
import { type Connection, text } from './connection.ts';
import { AttemptTimeoutError, kindOf } from './failures.ts';
import { asGuardFailure, brokenAt, guard, type Statement } from './guards.ts';

/** Of the deadline and of the mark. */
const deadlineAt = 0;
const markAt = 1;

const insertMark = 'INSERT INTO vault_writes (id, changed, written_at) VALUES (?, ?, unixepoch())';
/** What a mark says where it was recorded alone. */
const notDone = 'not done';

/** By so much a server's clock may fall behind what is known of it; timers, which come early, included. */
const clockMarginMs = 50;

/** A server's clock, as far as it is known. */
export class ServerClock {
  readonly #connection: Connection;
  /** By how much it is ahead of `performance.now()`, in seconds; null until it has been asked. */
  #offset: number | null = null;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /**
   * What it shows, in seconds, at a moment by `performance.now()`. The moment of an answer is that of its arrival, so that this is too
   * early by the time of the way back, never too late.
   */
  async at(timeMs: number): Promise<number> {
    if (this.#offset === null) {
      const { rows } = await this.#connection.execute({ sql: "SELECT unixepoch('subsec') AS now" });
      this.#offset = Number(rows[0]?.now) - performance.now() / 1000;
    }
    return this.#offset + timeMs / 1000;
  }

  /** Told what it showed after a moment by `performance.now()`: less than it must have, and it was set back. */
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
  /** When each attempt was given up of which nobody knows whether it was carried out, or will be. */
  readonly #unsettled = new Set<number>();
  /** All that is sent beside the deadline. */
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

  /** Whether it was sent so that nobody knows whether it was carried out, or will be: {@link settle} then, and tell nothing before. */
  get isUnsettled(): boolean {
    return this.#unsettled.size > 0;
  }

  /** From when on none of these attempts is carried out any more, settled or not; by `performance.now()`. */
  get overAtMs(): number {
    return Math.max(...this.#unsettled) + clockMarginMs;
  }

  /** One attempt, given up at `endsAtMs`. Answers how many rows each statement changed. */
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
   * Makes certain what becomes of it: answers how many rows each statement changed where an attempt has been carried out, and null
   * where none has been and none will be. May be carried out twice.
   */
  async settle(endsAtMs: number): Promise<number[] | null> {
    const sql = `${insertMark} ON CONFLICT (id) DO UPDATE SET changed = changed RETURNING changed`;
    const [result] = await this.#connection.batch([{ sql, args: [this.#id, notDone] }], endsAtMs);
    const changed = text(result?.rows[0] ?? {}, 'changed');
    return changed === notDone ? null : changed.trim().split(' ').map(Number);
  }

  /** What its last attempt ended with: GuardFailedError where that was the doing of one of its guards. */
  asGuardFailure(error: unknown): unknown {
    return asGuardFailure(error, this.#batch(0));
  }

  #batch(deadline: number): Statement[] {
    return [guard('deadline', "unixepoch('subsec') < ?", [deadline]), ...this.statements];
  }
}
