import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Tests that take minutes begin first, so that the others run beside them and not before them. */
const slowest = [
  'random-kills',
  'cut-rotation',
  'memory',
  'faults',
  'cut-restore',
  'durability',
  'crash-matrix',
  'hostile-input',
];

class SlowestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification): number => {
      const index = slowest.findIndex((name) => moduleId.includes(`${name}.test.ts`));
      return index === -1 ? slowest.length : index;
    };
    return (await super.sort(files)).toSorted((left, right) => rank(left) - rank(right));
  }
}

const shared = {
  // The native database client does not survive being loaded into a second VM context.
  pool: 'forks' as const,
  // Importing everything anew takes longer than most files run; none leaves anything behind in its process.
  isolate: false,
  testTimeout: 60_000,
  hookTimeout: 60_000,
  // What is waited for comes, on a busy machine too; how soon is for benchmarks to say.
  expect: { poll: { timeout: 30_000 } },
};

/** What the vault promises of its data holds on both engines: these run once on a file and once on a real libSQL server. */
const onBothEngines = ['test/{keys,rotation,snapshot,store,vault}/**/*.test.ts', 'test/http/{api-keys,stateless}.test.ts'];
const onOneFile = [
  'test/store/file/**/*.test.ts',
  'test/rotation/random-kills.test.ts',
  'test/{rotation,snapshot}/threads.test.ts',
  // Without a database at all.
  'test/keys/{latest-survey,seal-meter}.test.ts',
  'test/store/replacement-writer.test.ts',
  'test/vault/{text-workers,use-recorder,values}.test.ts',
];
const onOneServer = ['test/store/server/**/*.test.ts'];
/** A second run, on another Node, leaves out what takes long, or makes the image or the package once more. */
const isQuick = process.env.VAULT_TEST_QUICK === 'true';
const long = [
  'test/e2e/{audit,image,logs,package,rests,rotation-thread,secrecy,snapshot}.test.ts',
  'test/cli/{rotate,snapshot}.test.ts',
  'test/keys/surveyor.test.ts',
  'test/store/file/**',
  'test/rotation/{cancel-and-resume,crash-matrix,under-load,random-kills,frozen-owner,gate.property,lease}.test.ts',
  'test/snapshot/**',
  'test/http/{audit,contract.property,hostile-input,hardening,limits,receiving}.test.ts',
  'test/client/**',
];
const leftOut = isQuick ? long : [];
/** What differs between the engines is the client's, which hardly differs between Nodes. */
const onServer = isQuick ? ['test/store/contract.test.ts'] : [...onBothEngines, ...onOneServer];

export default defineConfig({
  test: {
    // Most of them wait for processes of their own, or for the disk.
    maxWorkers: availableParallelism() + 2,
    sequence: { sequencer: SlowestFirst },
    projects: [
      { test: { ...shared, name: 'file', include: ['test/**/*.test.ts'], exclude: [...onOneServer, ...leftOut] } },
      {
        test: {
          ...shared,
          name: 'server',
          include: onServer,
          exclude: onOneFile,
          env: { VAULT_TEST_ENGINE: 'server' },
        },
      },
    ],
  },
});
