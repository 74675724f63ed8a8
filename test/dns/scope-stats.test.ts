import { expect, test } from 'vitest'
import { latencyBoundsMs, ScopeStats } from '../../src/dns/scope-stats.ts'

test('ScopeStats counts winners, and a race in the first bucket that is not too small', () => {
  const stats = new ScopeStats()
  for (const tookMs of [0, 1, 1.01, 2, 49, 50, 4_600, 9_999]) stats.raceEnded('service', tookMs)
  stats.raceEnded('host', 100)
  stats.raceEnded('nobody', 4_500)
  const { won, latency } = stats.figures()
  expect(won).toEqual({ service: 8, host: 1, nobody: 1 })
  const filled = Object.fromEntries(
    latency.filter(({ count }) => count > 0).map(({ upToMs, count }) => [upToMs, count]),
  )
  expect(filled).toEqual({ 1: 2, 2: 2, 50: 2, 100: 1, 5000: 3 })
})

test('the figures of ScopeStats do not change with later races', () => {
  const stats = new ScopeStats()
  const before = stats.figures()
  stats.queries++
  stats.raceEnded('host', 1)
  expect(before).toMatchObject({ queries: 0, won: { host: 0 } })
  expect(before.latency.map(({ upToMs }) => upToMs)).toEqual(latencyBoundsMs)
})
