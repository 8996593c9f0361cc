/**
 * What this process counts as it happens. Each vault has its own registry; labels have few values, and none names a tenant, a row
 * or a passphrase.
 */

import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from '@prometheus-io/client';
import type { Keyring } from '../crypto/keyring.ts';
import type { DecryptOutcome, VaultObserver } from '../vault/observer.ts';

const prefix = 'provara_vault_';
const requestSeconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const outcomes: readonly DecryptOutcome[] = ['opened', 'failed', 'key_missing'];
/** Stands for a key id that is not in this process's keyring, or for none. */
const otherKeyLabel = 'other';

export interface FinishedRequest {
  readonly method: string;
  /** The route's pattern; undefined if none matched. */
  readonly route: string | undefined;
  readonly status: number;
  readonly seconds: number;
}

export class VaultMetrics implements VaultObserver {
  readonly registry = new Registry();
  readonly #labelByKeyId: ReadonlyMap<string, string>;
  readonly #decrypts: Counter<'key_id' | 'outcome'>;
  readonly #requests: Histogram<'method' | 'route' | 'status'>;
  readonly #auditFailures: Counter;
  readonly #logLinesDropped: Counter;

  constructor(keyring: Keyring) {
    this.#labelByKeyId = new Map(keyring.entries.map(({ key }) => [key.id, keyring.labelOf(key.id)]));
    this.#requests = new Histogram({
      name: `${prefix}http_request_duration_seconds`,
      help: 'Time from the headers of a request to the last byte of its answer.',
      labelNames: ['method', 'route', 'status'],
      buckets: requestSeconds,
      registers: [this.registry],
    });
    this.#auditFailures = this.#counter(
      'audit_failures_total',
      'Calls that were refused since the audit did not take their records.',
    );
    this.#logLinesDropped = this.#counter(
      'log_lines_dropped_total',
      'Lines of the log that were dropped, since standard output took nothing.',
    );
    this.#decrypts = this.#createDecrypts();
  }

  /** Adds the metrics of Node and of the process, sampled from now on. */
  observeProcess(): void {
    collectDefaultMetrics({ register: this.registry });
  }

  decrypted(keyId: string | null, outcome: DecryptOutcome, plaintexts = 1): void {
    this.#decrypts.inc({ key_id: this.#label(keyId), outcome }, plaintexts);
  }

  requestFinished({ method, route, status, seconds }: FinishedRequest): void {
    const labels = route === undefined ? { method: 'other', route: 'none' } : { method, route };
    this.#requests.observe({ ...labels, status: String(status) }, seconds);
  }

  /** To be called by the audit log when a call's records were not accepted. */
  auditFailed(): void {
    this.#auditFailures.inc();
  }

  logLineDropped(): void {
    this.#logLinesDropped.inc();
  }

  /** A gauge that is set at each scrape. */
  gauge<Label extends string>(name: string, help: string, labelNames: readonly Label[] = []): Gauge<Label> {
    return new Gauge({ name: prefix + name, help, labelNames: [...labelNames], registers: [this.registry] });
  }

  /** A counter whose total is kept elsewhere, and read at each scrape. */
  totalOf(name: string, help: string, read: () => number): void {
    new Counter({
      name: prefix + name,
      help,
      registers: [this.registry],
      collect() {
        this.reset();
        this.inc(read());
      },
    });
  }

  #counter<Label extends string>(name: string, help: string, labelNames: readonly Label[] = []): Counter<Label> {
    return new Counter({ name: prefix + name, help, labelNames: [...labelNames], registers: [this.registry] });
  }

  #label(keyId: string | null): string {
    return (keyId === null ? undefined : this.#labelByKeyId.get(keyId)) ?? otherKeyLabel;
  }

  /** Every series exists from the start, so that its first increase is visible. */
  #createDecrypts(): Counter<'key_id' | 'outcome'> {
    const help = 'Ciphertexts that callers had opened or rewrapped, by the key that opened them or that they name, and outcome.';
    const decrypts = this.#counter('decrypts_total', help, ['key_id', 'outcome']);
    for (const label of new Set([...this.#labelByKeyId.values(), otherKeyLabel])) {
      for (const outcome of outcomes) {
        decrypts.inc({ key_id: label, outcome }, 0);
      }
    }
    return decrypts;
  }
}
