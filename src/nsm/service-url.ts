import { NsmError } from '../base/errors.ts'

/** What `[kernel://]service[@domain][/interface][?label=value&...]` asks for. */
export interface ServiceUrl {
  readonly service: string
  readonly domain?: string
  /** At most 15 bytes. */
  readonly interfaceName?: string
  readonly labels: Readonly<Record<string, string>>
}

/** Linux: IFNAMSIZ less the final zero; longer names fail when the interface is made. */
const interfaceNameMaxBytes = 15
/** Ours: [DNS 2.3.4] names of services become DNS names of at most this length. */
const serviceMaxCharacters = 253

/**
 * Reads one service URL as Network Service Mesh does, and refuses what its client drops without a word: a port, a
 * password, a bad escape, a long interface name. Throws `USAGE` with a caret under the character. [NSM sdk nsurl]
 */
export function parseServiceUrl(text: string): ServiceUrl {
  const scheme = /^([A-Za-z][A-Za-z0-9+.-]*):\/\//.exec(text)
  const start = scheme?.[0].length ?? 0
  if (scheme && scheme[1]?.toLowerCase() !== 'kernel') {
    throw fault(text, 0, `the mechanism "${scheme[1]}" is not supported`, 'write kernel:// or nothing')
  }
  const hash = text.indexOf('#')
  if (hash >= 0) throw fault(text, hash, 'a fragment has no meaning here', 'remove it')
  const query = indexOrEnd(text, '?', start)
  const slash = Math.min(indexOrEnd(text, '/', start), query)
  return {
    ...parseName(text, start, slash),
    ...parseInterface(text, slash, query),
    labels: parseLabels(text, query),
  }
}

/** Reads several service URLs, separated by spaces or commas; throws `USAGE` as `parseServiceUrl` does. */
export function parseServiceList(text: string): ServiceUrl[] {
  const parts = text.split(/[\s,]+/).filter((part) => part !== '')
  if (parts.length === 0) throw fault(text, 0, 'no network service is named', 'name one, such as kernel://my-service')
  return parts.map(parseServiceUrl)
}

function parseName(text: string, start: number, end: number): Pick<ServiceUrl, 'service' | 'domain'> {
  const at = text.indexOf('@', start)
  const serviceEnd = at >= 0 && at < end ? at : end
  const service = text.slice(start, serviceEnd)
  const oddAt = service.search(/[^A-Za-z0-9._-]/)
  if (service[oddAt] === ':') throw fault(text, start + oddAt, 'a port or a password has no meaning here', 'remove it')
  if (oddAt >= 0) throw fault(text, start + oddAt, 'a service name has letters, digits, "-", "_" and "."', 'change it')
  if (service === '') throw fault(text, start, 'the service name is empty', 'name a network service')
  if (service.length > serviceMaxCharacters) throw fault(text, start, 'the service name is too long', 'shorten it')
  if (serviceEnd === end) return { service }
  const domain = text.slice(at + 1, end)
  const oddDomain = domain.search(/[^A-Za-z0-9.-]/)
  if (domain[oddDomain] === ':') throw fault(text, at + 1 + oddDomain, 'a port has no meaning here', 'remove it')
  if (oddDomain >= 0) throw fault(text, at + 1 + oddDomain, 'a domain has letters, digits, "-" and "."', 'change it')
  if (domain === '') throw fault(text, at + 1, 'the domain is empty', 'remove the "@" or name a domain')
  return { service, domain }
}

function parseInterface(text: string, slash: number, end: number): Pick<ServiceUrl, 'interfaceName'> {
  if (slash === end) return {}
  const name = text.slice(slash + 1, end)
  if (name === '') return {}
  const odd = name.search(/[^A-Za-z0-9._-]/)
  if (odd >= 0)
    throw fault(text, slash + 1 + odd, 'an interface name has letters, digits, "-", "_" and "."', 'change it')
  if (name === '.' || name === '..') throw fault(text, slash + 1, 'this is not an interface name', 'change it')
  if (name.length > interfaceNameMaxBytes) {
    const at = slash + 1 + interfaceNameMaxBytes
    throw fault(text, at, `an interface name has at most ${interfaceNameMaxBytes} bytes`, 'shorten it')
  }
  return { interfaceName: name }
}

function parseLabels(text: string, query: number): Record<string, string> {
  const labels = new Map<string, string>()
  for (const { part, at } of partsOf(text.slice(query + 1), query + 1)) {
    if (part === '') continue
    const semicolon = part.indexOf(';')
    if (semicolon >= 0) throw fault(text, at + semicolon, '";" does not separate labels', 'write "&"')
    const equals = part.indexOf('=')
    if (equals <= 0) throw fault(text, at, 'a label is written key=value', 'add a key and "="')
    const key = decodePart(text, part.slice(0, equals), at)
    const value = decodePart(text, part.slice(equals + 1), at + equals + 1)
    const earlier = labels.get(key)
    labels.set(key, earlier === undefined ? value : `${earlier},${value}`)
  }
  return Object.fromEntries(labels)
}

function partsOf(query: string, offset: number): { part: string; at: number }[] {
  let at = offset
  return query.split('&').map((part) => {
    const found = { part, at }
    at += part.length + 1
    return found
  })
}

function decodePart(text: string, encoded: string, at: number): string {
  try {
    return decodeURIComponent(encoded.replaceAll('+', ' '))
  } catch {
    const bad = Math.max(0, encoded.search(/%(?![0-9A-Fa-f]{2})/))
    throw fault(text, at + bad, 'this escape is not valid', 'write % as %25, and bytes as %xx of UTF-8')
  }
}

function indexOrEnd(text: string, character: string, from: number): number {
  const index = text.indexOf(character, from)
  return index < 0 ? text.length : index
}

/** Two lines below the sentence: the text, and a caret under the character that is meant. */
function fault(text: string, at: number, why: string, next: string): NsmError {
  const shown = text.replace(/\p{Cc}/gu, '?')
  return new NsmError('USAGE', `service URL: ${why}\n  ${shown}\n  ${' '.repeat(at)}^`, next)
}
