import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // The native database client does not survive being loaded into a second VM context.
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
