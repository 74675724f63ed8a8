import { describe, expect, test } from 'vitest'
import { barChart } from '../../scripts/bench/chart.ts'
import { row } from '../../scripts/bench/figures.ts'
import { performanceChart, performanceText } from '../../scripts/bench/performance.ts'
import type { BenchSection } from '../../scripts/bench/section.ts'

const kept = row({ label: 'TCP', ours: 3, peer: 2, unit: 'Gbit/s', limit: 1.2, betterIs: 'higher' })
const missed = row({ label: 'hub, TCP', ours: 1, peer: 2, unit: 'Gbit/s', limit: 1.2, betterIs: 'higher' })
const shown = row({ label: 'TCP: processor', ours: 2.5, peer: 5, unit: 's/GB', betterIs: 'lower' })
const section = (...rows: BenchSection['rows'][number][]): BenchSection => ({
  name: 'tunnel',
  rows,
  versions: { 'wireguard-go': 'v1' },
  notes: ['a note'],
})
const facts = {
  machine: { cpu: 'X', cores: 2, memoryGib: 4, kernel: '6.1', node: 'v24.0.0', loadAverage: 0.1 },
  loadAverageAfter: 2,
  day: '2026-01-02',
}

describe('performanceText', () => {
  test('says that every limit is kept, with machine, versions and notes', () => {
    const text = performanceText(section(kept, shown), facts)
    expect(text).toContain('Every limit is kept.')
    expect(text).toContain('2026-01-02 on X, 2 cores, Linux 6.1, Node 24.0.0; load average 0.1 before and\n2 after')
    expect(text).toContain('| TCP | 3.00 | 2.00 | Gbit/s | 1.50 | >= 1.2 |')
    expect(text).toContain('- wireguard-go: v1')
    expect(text).toContain('- a note')
  })

  test('names each limit that is missed, and no row without one', () => {
    const text = performanceText(section(kept, missed, shown), facts)
    expect(text).toContain('Limits missed: hub, TCP.')
    expect(text).toContain('| hub, TCP | 1.00 | 2.00 | Gbit/s | 0.500 | >= 1.2, missed |')
  })
})

describe('barChart', () => {
  const lengths = (svg: string) =>
    [...svg.matchAll(/<rect x="250" y="\d+" width="([\d.]+)"/g)].map((one) => Number(one[1]))

  test('draws bars in the proportion of their values, each group by its own scale', () => {
    const groups = [
      { title: 'one', pairs: [{ label: 'a', ours: 4, peer: 2 }] },
      { title: 'two', pairs: [{ label: 'b', ours: 10, peer: 40 }] },
    ]
    const [first = 0, second = 0, third = 0, fourth = 0] = lengths(barChart(groups, { ours: 'o', peer: 'p' }))
    expect(first / second).toBeCloseTo(2, 1)
    expect(fourth / third).toBeCloseTo(4, 1)
    expect(first).toBe(fourth)
  })

  test('escapes what would be markup', () => {
    const svg = barChart([{ title: 'a<b>&', pairs: [{ label: 'x', ours: 1, peer: 1 }] }], { ours: 'o', peer: 'p' })
    expect(svg).toContain('a&#60;b&#62;&#38;')
  })

  test('shows throughput and processor time apart and leaves out rows against other programs', () => {
    const other = row({ label: 'TCP, against x', ours: 1, peer: 2, unit: 'Gbit/s', betterIs: 'higher' })
    const svg = performanceChart(section(kept, other, shown))
    expect(svg).toContain('Throughput')
    expect(svg).toContain('Processor seconds')
    expect(svg).not.toContain('against')
  })
})
