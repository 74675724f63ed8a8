import { isIP } from 'node:net'
import { NsmError } from '../base/errors.ts'
import { type Prefix, parseAddress, parsePrefix, prefixContains, unmappedAddress } from '../base/ip.ts'
import { parseTarget } from './next-hop.ts'

/* The manager dials the urls of endpoints, so a member could have it knock at doors that only the manager's machine has:
 * its loopback, its links, the metadata service of its cloud. Only somebody behind the same door may name it. A host name
 * that leads there is not seen here; then the identity that the TLS handshake must show ends it. */

/** Places that mean something else on each machine. */
const privatePlaces: readonly { readonly what: string; readonly prefixes: readonly Prefix[] }[] = [
  { what: 'loopback', prefixes: ['127.0.0.0/8', '::1/128', '0.0.0.0/8', '::/128'].map(parsePrefix) },
  { what: 'link-local', prefixes: ['169.254.0.0/16', 'fe80::/10'].map(parsePrefix) },
  {
    what: 'metadata service',
    prefixes: ['168.63.129.16/32', '100.100.100.200/32', '192.0.0.192/32', 'fd00:ec2::254/128'].map(parsePrefix),
  },
]

/**
 * Refuses a url of such a place unless the registrant's own address is of the same one; throws `REFUSED`. A url that cannot
 * be dialed at all passes: nobody dials it.
 */
export function checkUrlReach(url: string, registrantAddress: string): void {
  const target = parseTarget(url)
  const place = target && placeOf(target.address)
  if (place === undefined || place === placeOf(registrantAddress)) return
  throw new NsmError(
    'REFUSED',
    `the url ${url} names a ${place} address, which others cannot reach`,
    'register an address that others reach',
  )
}

function placeOf(host: string): string | undefined {
  const plain = host.replace(/\.$/, '').replace(/%.*$/, '')
  if (/(^|\.)localhost$/i.test(plain)) return 'loopback'
  if (isIP(plain) === 0) return numberLike.test(plain) ? 'numeric' : undefined
  const address = unmappedAddress(parseAddress(plain))
  return privatePlaces.find(({ prefixes }) => prefixes.some((prefix) => prefixContains(prefix, address)))?.what
}

/** Resolvers read 127.1, 2130706433 and 0x7f000001 as addresses. [WHATWG URL 3.5, ends in a number] */
const numberLike = /(^|\.)(\d+|0x[0-9a-f]*)$/i
