import { type Audit, noAudit } from '../base/audit.ts'
import { NsmError } from '../base/errors.ts'
import { type Prefix, parsePrefix, prefixCovers } from '../base/ip.ts'
import type { Admission, Grant } from '../nsm/admission.ts'
import type { Connection } from '../nsm/generated/connection_pb.js'
import type { DNSConfig } from '../nsm/generated/connectioncontext_pb.js'
import type { NetworkServiceEndpoint } from '../nsm/generated/registry_pb.js'
import { domainOf } from '../nsm/interdomain.ts'
import type { NextHop } from './next-hop.ts'
import type { Registry } from './registry.ts'

/** Who may offer what, and who offers. */
export interface OfferParts {
  readonly admission: Admission
  readonly registry: Pick<Registry, 'offererOf'>
  readonly audit?: Audit
}

/** What an endpoint elsewhere hands out lies within what it was granted; else it is left at once. Throws `REFUSED`. */
export async function checkAnswer(
  parts: OfferParts,
  { name, answer, hop }: { readonly name: string; readonly answer: Connection; readonly hop: NextHop },
): Promise<void> {
  if (!hop.monitor || isWithinOffer(parts, { name, answer })) return
  await hop.close(answer).catch(() => {})
  throw new NsmError('REFUSED', 'the endpoint hands out more than it was granted', 'ask whoever runs the endpoint')
}

/** False, and audited: an endpoint elsewhere hands out more than it was granted. */
export function isWithinOffer(
  { admission, registry, audit = noAudit }: OfferParts,
  { name, answer }: { readonly name: string; readonly answer: Connection },
): boolean {
  if (admission.isOpen || domainOf(answer) !== undefined) return true
  const [owner = '', service] = [registry.offererOf(name), answer.networkService]
  const offered = admission.decide({ id: owner, action: 'offer', service })
  const beyond = offered.isGranted ? offered.grant && beyondOffer(answer, offered.grant) : 'everything'
  if (beyond === undefined) return true
  audit.record({ event: 'context.refused', id: owner, service, endpoint: name, beyond, reason: 'NOT_GRANTED' })
  return false
}

/** Whoever is granted one service does not reach another one by the name of its endpoint. Throws `NOT_FOUND`. */
export function checkOffered(
  endpoints: readonly NetworkServiceEndpoint[],
  { networkService: service }: Connection,
): void {
  const other = endpoints.find(({ networkServiceNames }) => !networkServiceNames.includes(service))
  if (!other) return
  throw new NsmError('NOT_FOUND', `network service endpoint ${other.name} not found`, 'leave the endpoint out')
}

/**
 * The first thing that an endpoint elsewhere hands out beyond what it was granted: an address, a route, a name server or a
 * zone of names. Undefined when there is none. [identity 4.3]
 */
export function beyondOffer(answer: Connection, { prefixes, zones }: Pick<Grant, 'prefixes' | 'zones'>) {
  const { ipContext, dnsContext } = answer.context ?? {}
  const routes = [...(ipContext?.srcRoutes ?? []), ...(ipContext?.policies ?? []).flatMap((policy) => policy.routes)]
  const addresses = [
    ...(ipContext?.srcIpAddrs ?? []),
    ...(ipContext?.dstIpAddrs ?? []),
    ...routes.flatMap(({ prefix, nextHop }) => [prefix, nextHop]),
    ...(ipContext?.extraPrefixes ?? []),
    ...(dnsContext?.configs ?? []).flatMap(({ dnsServerIps }) => dnsServerIps),
  ]
  const names = (dnsContext?.configs ?? []).flatMap(zonesOf)
  return (
    addresses.find((text) => text !== '' && !isInside(text, prefixes)) ?? names.find((name) => !isBelow(name, zones))
  )
}

/** Name servers without a zone are asked for every name, by NSM's own clients at least. */
function zonesOf({ dnsServerIps, searchDomains }: DNSConfig): readonly string[] {
  return searchDomains.length === 0 && dnsServerIps.length > 0 ? ['.'] : searchDomains
}

function isInside(text: string, prefixes: readonly Prefix[]): boolean {
  try {
    const wanted = parsePrefix(text)
    return prefixes.some((prefix) => prefixCovers(prefix, wanted))
  } catch {
    return false
  }
}

function isBelow(name: string, zones: readonly string[]): boolean {
  const plain = name.replace(/\.$/, '').toLowerCase()
  return zones.some((zone) => plain === zone || plain.endsWith(`.${zone}`))
}
