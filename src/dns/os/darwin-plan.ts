import type { Plan, Step } from './plan.ts'
import { zonesOfSuffix } from './reverse-zones.ts'
import type { HostUpstream, Served } from './system-dns.ts'

/** First words of a file nsm wrote. */
const marker = '# nsm:'
const folder = '/etc/resolver'
const serviceKey = 'State:/Network/Service/nsm/DNS'

/**
 * macOS asks a server of its own for each domain that has a file [resolver(5)]; everything is a key of the dynamic store
 * [scutil(8)], because no file can name the root. Programs with a resolver of their own (dig) read neither.
 */
export function planDarwin({ links, searchDomains }: Served, listener: HostUpstream): Plan {
  const zones = [...new Set(links.flatMap(({ suffixes }) => suffixes.flatMap(zonesOfSuffix)))].map(plain)
  const files = zones.filter(isFileName).map((zone) => ({ zone, text: domainFile(listener) }))
  const search = searchDomains.length > 0 ? [{ zone: 'search.nsm', text: searchFile(searchDomains) }] : []
  const writes = [...files, ...search].map(({ zone, text }) => ({ path: `${folder}/${zone}`, text }))
  const all = zones.includes('')
  return {
    set: [
      ...writes.map(({ path, text }): Step => ({ kind: 'write', path, text })),
      ...(all ? [scutil(captureScript(listener))] : []),
      ...flush,
    ],
    undo: [
      ...(all ? [scutil(`remove ${serviceKey}\n`)] : []),
      ...writes.map(({ path }): Step => ({ kind: 'remove', path, marker })),
      ...flush,
    ],
  }
}

const flush: readonly Step[] = [
  { kind: 'run', program: 'dscacheutil', args: ['-flushcache'] },
  { kind: 'run', program: 'killall', args: ['-HUP', 'mDNSResponder'] },
]

function domainFile({ address, port }: HostUpstream): string {
  return `${marker} names of a connected network service\nnameserver ${address}\nport ${port}\n`
}

/** A domain that nobody asks for: its file carries the search list of the machine. */
function searchFile(domains: readonly string[]): string {
  return `${marker} search domains of connected network services\nsearch ${domains.map(plain).join(' ')}\n`
}

function captureScript({ address, port }: HostUpstream): string {
  const words = [
    `ServerAddresses * ${address}`,
    `ServerPort # ${port}`,
    'SupplementalMatchDomains * ""',
    'SearchOrder # 1',
  ]
  return ['d.init', ...words.map((word) => `d.add ${word}`), `set ${serviceKey}`, ''].join('\n')
}

function scutil(input: string): Step {
  return { kind: 'run', program: 'scutil', args: [], input }
}

function plain(zone: string): string {
  return zone.replace(/\.$/, '')
}

/** A name that could lead out of the folder is none of a domain. */
function isFileName(zone: string): boolean {
  return zone !== '' && !zone.startsWith('.') && !/[/:\s]/.test(zone)
}
