import { printableLines } from '../base/printable.ts'
import type { Contestant, DnsQueryResult, DnsTraceResult, MessageText, TraceHop } from '../daemon/dns-protocol.ts'
import { columns } from './columns.ts'

/** The records of an answer as lines, then what it is in `#` lines. */
export function dnsQueryText(result: DnsQueryResult): string {
  const how = `${result.server} over ${result.overTcp ? 'TCP' : 'UDP'}, ${result.tookMs} ms, ${result.bytes} bytes`
  return [...answerLines(result), `# ${summary(result)}; ${how}`].join('\n')
}

/** Every race of a look-up with its contestants, then the answer. */
export function dnsTraceText(trace: DnsTraceResult): string {
  const origin = trace.answeredBy === 'here' ? ['# answered here: this name or type is never asked elsewhere'] : []
  const cached = trace.inCache ? ['# programs get this answer from the cache at the moment'] : []
  const hops = trace.hops.flatMap((hop) => ['', ...hopLines(hop)])
  const head = `${trace.name} ${trace.type}: ${summary(trace.answer)} in ${trace.tookMs} ms`
  return printableLines([head, ...origin, ...cached, ...hops, '', ...answerLines(trace.answer)].join('\n').trimEnd())
}

function hopLines(hop: TraceHop): string[] {
  const scope = hop.scope === '' ? 'no scope, so the host decides' : `scope ${hop.scope}, ${hop.mode}`
  return [
    `${hop.name}  ${scope}, ${hop.tookMs} ms`,
    ...columns(hop.contestants.map((one) => [one.won ? '  won' : '  -', ...contestantCells(one)])),
  ]
}

function contestantCells(one: Contestant): string[] {
  const when = one.answeredAfterMs === undefined ? '-' : `${one.answeredAfterMs} ms`
  const detours = one.detours.length === 0 ? '' : ` (${one.detours.join(', ')})`
  const said = one.reply && one.said === 'failure' ? one.reply.rcode : one.said
  const data = one.reply?.answers.map((record) => record.data).join(' ') ?? ''
  return [one.server, one.side, when, `${said}${detours}`, data === '' ? '-' : data, one.why]
}

function answerLines(answer: MessageText): string[] {
  const lines = [...answer.answers, ...(answer.answers.length === 0 ? answer.authority : [])]
  return columns(lines.map(({ name, ttlSeconds, type, data }) => [name, String(ttlSeconds), type, data]))
}

function summary({ rcode, answers, flags, extendedError }: MessageText): string {
  const nodata = rcode === 'NOERROR' && answers.length === 0 ? ', no such record' : ''
  const why = extendedError === undefined ? '' : `, extended error ${extendedError}`
  return `${rcode}${nodata}${why} (${flags.join(' ')})`
}
