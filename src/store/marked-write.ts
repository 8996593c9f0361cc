/**
 * A batch that a server carries out once, however often it is sent. Its answer may be lost, and the batch be carried out or not: so it
 * begins by recording a mark of its own. The same batch, sent again, is refused at the mark if it was carried out before, and what it
 * changed is read there. Before the mark stands the attempt's deadline by the server's clock: one that arrives late, when its caller has
 * been told that it failed and others may have written since, is refused.
 */

import { randomUUID } from 'node:crypto';
import { type Argument, type Connection, type Row, text } from './connection.ts';
import { AttemptTimeoutError, kindOf } from './failures.ts';
import { asGuardFailure, brokenAt, guard, type Statement } from './guards.ts';

/** Of the deadline and of the mark. */
const deadlineAt = 0;
const markAt = 1;

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

  forget(): void {
    this.#offset = null;
  }
}

export class MarkedWrite {
  readonly #connection: Connection;
  readonly #clock: ServerClock;
  readonly #id = randomUUID();
  readonly #count: number;
  #unsettled = 0;
  /** All that is sent beside the deadline. */
  readonly statements: readonly Statement[];

  constructor(connection: Connection, clock: ServerClock, statements: readonly Statement[]) {
    this.#connection = connection;
    this.#clock = clock;
    this.#count = statements.length;
    this.statements = [
      { sql: "INSERT INTO vault_writes (id, changed, written_at) VALUES (?, '', unixepoch())", args: [this.#id] },
      ...statements.flatMap((statement) => [
        statement,
        { sql: "UPDATE vault_writes SET changed = changed || changes() || ' ' WHERE id = ?", args: [this.#id] },
      ]),
    ];
  }

  /** Whether it was sent so that nobody knows whether it was carried out. */
  get isUnsettled(): boolean {
    return this.#unsettled > 0;
  }

  /** One attempt, given up at `endsAtMs`. Answers how many rows each statement changed. Throws what {@link isDoneBefore} looks at. */
  async send(endsAtMs: number): Promise<number[]> {
    const batch = this.#batch(await this.#clock.at(endsAtMs));
    this.#unsettled += 1;
    try {
      const results = await this.#connection.batch(batch, endsAtMs);
      return Array.from({ length: this.#count }, (_, index) => results[markAt + 1 + 2 * index]?.rowsAffected ?? 0);
    } catch (error) {
      if (kindOf(error) !== 'lost') this.#unsettled -= 1;
      if (brokenAt(error) !== deadlineAt) throw error;
      this.#clock.forget();
      throw new AttemptTimeoutError('It reached the server too late.');
    }
  }

  /** Whether an attempt ended with this because an earlier one had been carried out. */
  isDoneBefore(error: unknown): boolean {
    return brokenAt(error) === markAt;
  }

  /** What its last attempt ended with: GuardFailedError where that was the doing of one of its guards. */
  asGuardFailure(error: unknown): unknown {
    return asGuardFailure(error, this.#batch(0));
  }

  /** How many rows each statement changed when an earlier attempt was carried out. */
  async changed(read: (sql: string, args: readonly Argument[]) => Promise<readonly Row[]>): Promise<number[]> {
    const [row] = await read('SELECT changed FROM vault_writes WHERE id = ?', [this.#id]);
    return row === undefined ? [] : text(row, 'changed').trim().split(' ').map(Number);
  }

  #batch(deadline: number): Statement[] {
    return [guard('deadline', "unixepoch('subsec') < ?", [deadline]), ...this.statements];
  }
}
