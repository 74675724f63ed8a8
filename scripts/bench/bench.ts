import { columns } from '../../src/ui/columns.ts'
import { errorText } from '../../src/ui/error-text.ts'
import { whyNoLab } from '../demo/lab.ts'
import { keepsLimit } from './figures.ts'
import { machineFacts } from './machine.ts'
import { writePerformance } from './performance.ts'
import type { BenchSection } from './section.ts'

/**
 * `npm run bench [tunnel|dns|connect|heal|start|identity|control ...] [--json] [--runs N] [--only TEXT] [--docs]`: a table, then one JSON document. With
 * `--only` the sections `identity` and `control` measure just what has the text in its name, `tunnel --only netstack` the userspace stack; with `--docs`
 * the section `tunnel` writes docs/performance.md.
 */
interface Options {
  readonly runs: number
  readonly only: string
}

const sections: Readonly<Record<string, (options: Options) => Promise<BenchSection>>> = {
  tunnel: async (options) => (await import('./tunnel.ts')).benchTunnel(options),
  dns: async (options) => (await import('./dns.ts')).benchDns(options),
  connect: async (options) => (await import('./connect.ts')).benchConnect(options),
  heal: async (options) => (await import('./heal.ts')).benchHeal(options),
  start: async (options) => (await import('./start.ts')).benchStart(options),
  identity: async (options) => (await import('./identity.ts')).benchIdentity(options),
  control: async (options) => (await import('./control.ts')).benchControl(options),
}

const args = process.argv.slice(2)
const json = args.includes('--json')
const runsAt = args.indexOf('--runs')
const runs = runsAt < 0 ? 5 : Math.max(1, Number(args[runsAt + 1]) || 5)
const onlyAt = args.indexOf('--only')
const only = onlyAt < 0 ? '' : (args[onlyAt + 1] ?? '')
const named = args.filter((arg) => Object.hasOwn(sections, arg))
const refused = await whyNoLab()
if (refused) {
  process.stderr.write(`${errorText(refused)}\n`)
  process.exit(refused.exitCode)
}

const before = machineFacts()
const results: BenchSection[] = []
for (const name of named.length > 0 ? named : Object.keys(sections)) {
  process.stderr.write(`measuring ${name} ...\n`)
  const result = await sections[name]?.({ runs, only }).catch(failedSection(name))
  if (result) results.push(result)
}
const report = {
  apiVersion: 'nsm/bench/v1',
  machine: before,
  loadAverageAfter: machineFacts().loadAverage,
  sections: results,
}
const tunnel = results.find(({ name, rows }) => name === 'tunnel' && rows.length > 0)
if (tunnel && args.includes('--docs'))
  await writePerformance(tunnel, { ...report, day: new Date().toISOString().slice(0, 10) })
if (!json) process.stdout.write(`${tableText()}\n\n`)
process.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`)
process.exit(results.every(({ rows }) => rows.length > 0 && rows.every(keepsLimit)) ? 0 : 1)

function failedSection(name: string): (error: unknown) => BenchSection {
  return (error) => ({ name, rows: [], versions: {}, notes: [`not measured: ${error}`] })
}

function tableText(): string {
  const { cpu, cores, kernel, node, loadAverage } = before
  const head = `${cpu}, ${cores} cores, Linux ${kernel}, Node ${node}, load ${loadAverage} before and ${report.loadAverageAfter} after`
  return [head, ...results.flatMap(sectionLines)].join('\n')
}

function sectionLines({ name, rows, versions, notes }: BenchSection): string[] {
  const cells = rows.map((row) => [
    row.label,
    figure(row.ours),
    figure(row.peer),
    row.unit,
    `x ${figure(row.ratio)}`,
    row.limit === undefined
      ? ''
      : `${row.betterIs === 'lower' ? '<=' : '>='} ${row.limit} ${keepsLimit(row) ? 'ok' : 'MISSED'}`,
  ])
  const about = Object.entries(versions).map(([program, version]) => `# ${program} ${version}`)
  return [
    '',
    name,
    ...columns([['', 'ours', 'peer', 'unit', 'ratio', 'limit'], ...cells]),
    ...about,
    ...notes.map((note) => `# ${note}`),
  ]
}

function figure(value: number): string {
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3)
}
