import { writeFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { barChart } from './chart.ts'
import { keepsLimit } from './figures.ts'
import type { MachineFacts } from './machine.ts'
import type { BenchRow, BenchSection } from './section.ts'

const docs = resolve(import.meta.dirname, '../../docs')

/** What a run of the bench knows beside its sections. */
export interface RunFacts {
  readonly machine: MachineFacts
  readonly loadAverageAfter: number
  readonly day: string
}

/** Writes docs/performance.md and docs/performance.svg from the section `tunnel` of a run. */
export async function writePerformance(tunnel: BenchSection, facts: RunFacts): Promise<void> {
  await writeFile(resolve(docs, 'performance.md'), performanceText(tunnel, facts))
  await writeFile(resolve(docs, 'performance.svg'), performanceChart(tunnel))
}

/** The page; a row that misses its limit says so. */
export function performanceText({ rows, versions, notes }: BenchSection, facts: RunFacts): string {
  const { cpu, cores, kernel, node, loadAverage } = facts.machine
  const missed = rows.filter((row) => !keepsLimit(row)).map(({ label }) => label)
  return `# How fast packets are

<!-- Written by \`npm run bench -- tunnel --docs\`. -->

![Throughput and processor time beside the newest wireguard-go](performance.svg)

Measured ${facts.day} on ${cpu}, ${cores} cores, Linux ${kernel}, Node ${node.replace(/^v/, '')}; load average ${loadAverage} before and
${facts.loadAverageAfter} after. ${missed.length === 0 ? 'Every limit is kept.' : `Limits missed: ${missed.join('; ')}.`}

| | nsm | peer | unit | ratio | limit |
|---|---|---|---|---|---|
${rows.map(tableRow).join('\n')}

## Method

${notes.map((note) => `- ${note}`).join('\n')}
- Machines are network namespaces on one bridge. The receiver's figure counts. A ratio is ours / peer. Where the peer is a
  number it is the limit itself.
- The cipher row times bursts of 44 packets inside the engine: routing, segmentation, checksums and the cipher. Its peer is
  the cipher of OpenSSL alone, over the same bytes.

## Versions

${Object.entries(versions)
  .map(([program, version]) => `- ${program}: ${version}`)
  .join('\n')}
`
}

function tableRow(row: BenchRow): string {
  const sign = row.betterIs === 'lower' ? '<=' : '>='
  const limit = row.limit === undefined ? '' : `${sign} ${row.limit}${keepsLimit(row) ? '' : ', missed'}`
  return `| ${row.label} | ${figure(row.ours)} | ${figure(row.peer)} | ${row.unit} | ${figure(row.ratio)} | ${limit} |`
}

function figure(value: number): string {
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3)
}

/** Rows against wireguard-go by unit. */
export function performanceChart({ rows }: BenchSection): string {
  const pairs = (unit: string) =>
    rows
      .filter((row) => row.unit === unit && !row.label.includes('against'))
      .map(({ label, ours, peer }) => ({ label: label.replace(': processor', ''), ours, peer }))
  const groups = [
    { title: 'Throughput, Gbit/s (longer is better)', pairs: pairs('Gbit/s') },
    { title: 'Processor seconds per gigabyte, all ends (shorter is better)', pairs: pairs('s/GB') },
    { title: 'Round trip, ms (shorter is better)', pairs: pairs('ms') },
  ]
  return barChart(
    groups.filter((group) => group.pairs.length > 0),
    { ours: 'nsm', peer: 'newest wireguard-go' },
  )
}
