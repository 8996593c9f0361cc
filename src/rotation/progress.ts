/** How far a rotation has come. */

import type { RotationProgress } from '../store/rotation-record.ts';

export class Progress {
  #rowsDone = 0;
  #rowsTotal = 0;
  /** By `performance.now()`. */
  #startedAtMs = performance.now();

  /** Begins a phase of about `rowsTotal` rows. */
  begin(rowsTotal: number): void {
    this.#rowsDone = 0;
    this.#rowsTotal = rowsTotal;
    this.#startedAtMs = performance.now();
  }

  advance(rows: number): void {
    this.#rowsDone += rows;
  }

  report(): RotationProgress {
    const elapsedSeconds = Math.max((performance.now() - this.#startedAtMs) / 1000, 0.001);
    const rowsPerSecond = Math.round(this.#rowsDone / elapsedSeconds);
    const rowsLeft = Math.max(this.#rowsTotal - this.#rowsDone, 0);
    return {
      rowsDone: this.#rowsDone,
      rowsTotal: this.#rowsTotal,
      rowsPerSecond,
      secondsLeft: rowsPerSecond === 0 ? null : Math.ceil(rowsLeft / rowsPerSecond),
    };
  }
}
