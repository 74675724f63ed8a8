import type { BenchRow } from './section.ts'

/** The value at share `share` (0 to 1) of the sorted values; NaN for none. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
}

/** The middle value; NaN for none. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5)
}

/** A row whose ratio is computed. */
export function row(figure: Omit<BenchRow, 'ratio'>): BenchRow {
  return { ...figure, ratio: figure.ours / figure.peer }
}

/** A figure of ours held against a target: the limit of the ratio is 1. */
export function targetRow(figure: {
  readonly label: string
  readonly ours: number
  readonly target: number
  readonly unit: string
}): BenchRow {
  const { label, ours, target, unit } = figure
  return row({ label, ours, peer: target, unit, limit: 1, betterIs: 'lower' })
}

/** True when the row has no limit or keeps it. */
export function keepsLimit({ limit, ratio, betterIs }: BenchRow): boolean {
  if (limit === undefined) return true
  return betterIs === 'lower' ? ratio <= limit : ratio >= limit
}
