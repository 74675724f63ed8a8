import { defineConfig } from 'vitest/config'

/* Limits for what hangs. What a test waits for may take ten times as long as on an idle machine of two cores. */
export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    setupFiles: ['test/support/compile-cache.ts'],
    testTimeout: 180_000,
    hookTimeout: 300_000,
    expect: { poll: { timeout: 120_000 } },
    pool: 'forks',
    maxWorkers: 2,
  },
})
