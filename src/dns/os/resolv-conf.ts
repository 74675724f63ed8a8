import { isIP } from 'node:net'

/** What a resolver file says; other keywords are ignored. [resolv.conf(5)] */
export interface ResolvConf {
  readonly nameservers: readonly string[]
  readonly searchDomains: readonly string[]
  readonly options: readonly string[]
  /** True when nsm wrote it. */
  readonly isOurs: boolean
}

/** First words of a file nsm wrote. */
const marker = '# nsm:'
/** [resolv.conf(5)]: limits of the search list in glibc before 2.26. */
const searchDomainsMax = 6
const searchCharactersMax = 256

/** Reads a resolver file: all `nameserver` lines, the last `search` or `domain` line, all `options`. Zones (`%eth0`) are cut. */
export function parseResolvConf(text: string): ResolvConf {
  const nameservers: string[] = []
  const options: string[] = []
  let searchDomains: readonly string[] = []
  for (const line of text.split('\n')) {
    const [keyword = '', ...values] = line.trim().split(/\s+/)
    const first = values[0]?.replace(/%.*$/, '')
    if (keyword === 'nameserver' && first && isIP(first)) nameservers.push(first)
    else if (keyword === 'search' || keyword === 'domain') searchDomains = values
    else if (keyword === 'options') options.push(...values)
  }
  return { nameservers, searchDomains, options, isOurs: text.startsWith(marker) }
}

/**
 * The file that points to our listener: one nameserver line, because a second one would be a leak and glibc mixes answers;
 * the host's own search domains first, so that its short names keep their meaning; its options as they are.
 */
export function buildResolvConf(
  before: ResolvConf,
  ours: { readonly address: string; readonly searchDomains: readonly string[] },
): string {
  const wanted = [
    ...new Set([...before.searchDomains, ...ours.searchDomains].map((domain) => domain.replace(/\.$/, ''))),
  ]
  const search = fitting(wanted.filter((domain) => domain !== '' && !/\s/.test(domain)))
  return [
    `${marker} ${ours.address} answers for the connected network services and hands all other names on.`,
    '# The file as it was comes back with `nsm disconnect` or `nsm cleanup`.',
    `nameserver ${ours.address}`,
    ...(search.length > 0 ? [`search ${search.join(' ')}`] : []),
    ...(before.options.length > 0 ? [`options ${before.options.join(' ')}`] : []),
    '',
  ].join('\n')
}

function fitting(domains: readonly string[]): string[] {
  const kept: string[] = []
  for (const domain of domains) {
    const fits = [...kept, domain].join(' ').length <= searchCharactersMax
    if (kept.length < searchDomainsMax && fits) kept.push(domain)
  }
  return kept
}
