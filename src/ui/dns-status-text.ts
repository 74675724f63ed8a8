import { printable } from '../base/printable.ts'
import type { DnsStatusResult, ScopeFigures, ScopeStatus } from '../daemon/dns-protocol.ts'
import { byteText } from './byte-text.ts'
import { columns } from './columns.ts'

/** One line per scope, its price in a `#` line, then upstreams, counters and drops. */
export function dnsStatusText(status: DnsStatusResult): string {
  const { resolver } = status
  if (!resolver) return '# no resolver runs: no service brings names'
  const { counters, cache, scopes, others, system } = resolver
  const drops = Object.entries(counters.drops).filter(([, count]) => count > 0)
  return [
    ...columns([
      ['SCOPE', 'MODE', 'SERVERS', 'QUERIES', 'CACHED', 'SERVICE', 'HOST', 'NOBODY', 'MEDIAN'],
      ...scopes.map((scope) => [scope.suffix, scope.mode, list(scope.servers), ...figureCells(scope.figures)]),
      ['(other names)', '-', list(others.hostServers), ...figureCells(others.figures)],
    ]),
    ...prices(scopes),
    ...resolver.upstreams.map(upstreamLine),
    ...(system ? [`# system resolver set by way of ${wayText[system.method]}: ${system.why}`] : []),
    `# listens on ${resolver.listening}; ${counters.queries} queries, ${counters.cacheHits} from the cache, ${counters.joined} joined, ${counters.unreachable} without any answer`,
    `# cache: ${cache.entries} replies, ${byteText(cache.bytes)}`,
    ...(drops.length === 0
      ? []
      : [`# dropped or refused: ${drops.map(([why, count]) => `${why} ${count}`).join(', ')}`]),
  ]
    .map(printable)
    .join('\n')
}

const wayText = {
  file: 'the resolver file',
  resolved: 'systemd-resolved',
  openresolv: 'a record of openresolv',
  resolvconf: 'a record of resolvconf',
} as const

function upstreamLine(one: Upstream): string {
  const quality = [
    one.replies === 0 ? 'no reply yet' : `${one.roundTripMs} ms`,
    `${one.sent} sent`,
    `${one.replies} replies`,
    `${one.silences} silences`,
    `${one.unreachable} unreachable`,
    `${one.rejected + one.otherCase} forged or broken`,
    ...(one.suspect ? ['not waited for'] : []),
  ]
  return `# upstream ${one.address} port ${one.port}: ${quality.join(', ')}`
}

type Upstream = NonNullable<DnsStatusResult['resolver']>['upstreams'][number]

/** Who else learns the names of scopes that are not exclusive; one line for all scopes with the same answer. */
function prices(scopes: readonly ScopeStatus[]): string[] {
  const told = new Map<string, string[]>()
  for (const { suffix, hostServers } of scopes) {
    if (hostServers.length === 0) continue
    const servers = list(hostServers)
    told.set(servers, [...(told.get(servers) ?? []), suffix])
  }
  return [...told].map(([servers, suffixes]) => `# names under ${suffixes.join(' ')} are also asked at ${servers}`)
}

function list(servers: readonly string[]): string {
  return servers.length === 0 ? '-' : servers.join(',')
}

function figureCells({ queries, cacheHits, won, latency }: ScopeFigures): string[] {
  return [queries, cacheHits, won.service, won.host, won.nobody].map(String).concat(medianText(latency))
}

/** The bucket that holds the middle race. */
function medianText(latency: ScopeFigures['latency']): string {
  const races = latency.reduce((sum, { count }) => sum + count, 0)
  let below = 0
  for (const { upToMs, count } of latency) {
    below += count
    if (races > 0 && below * 2 >= races) return `<=${upToMs}ms`
  }
  return '-'
}
