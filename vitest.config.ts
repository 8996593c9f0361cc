import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Tests that take minutes begin first, so that the others run beside them and not before them. */
const slowest = ['random-kills', 'cut-rotation', 'memory', 'faults', 'durability', 'crash-matrix', 'hostile-input'];

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
const onOneFile = ['test/store/file/**/*.test.ts', 'test/rotation/random-kills.test.ts'];
const onOneServer = ['test/store/server/**/*.test.ts'];
/** What a second run, on another Node, leaves out: it takes minutes, or builds the image once more. */
const long = [
  'test/e2e/{image,rests}.test.ts',
  'test/store/file/**',
  ...['faults', 'crash-matrix', 'under-load', 'random-kills', 'cut-rotation', 'frozen-owner', 'kills', 'gate.property'].map(
    (name) => `**/${name}.test.ts`,
  ),
  'test/http/{hostile-input,hardening}.test.ts',
  'test/client/**',
];
const leftOut = process.env.VAULT_TEST_QUICK === 'true' ? long : [];

export default defineConfig({
  test: {
    // Most of them wait for processes of their own, or for the disk.
    maxWorkers: availableParallelism() + 1,
    sequence: { sequencer: SlowestFirst },
    projects: [
      { test: { ...shared, name: 'file', include: ['test/**/*.test.ts'], exclude: [...onOneServer, ...leftOut] } },
      {
        test: {
          ...shared,
          name: 'server',
          include: [...onBothEngines, ...onOneServer],
          exclude: [...onOneFile, ...leftOut],
          env: { VAULT_TEST_ENGINE: 'server' },
        },
      },
    ],
  },
});
