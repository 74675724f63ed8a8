import { type Prefix, parseAddress, parsePrefix, prefixContains } from '../base/ip.ts'

/** True for an address that only this machine can reach. */
export function isLoopback(address: string): boolean {
  return isIn(address, loopback)
}

/** True for an address that is not routed on the open Internet. */
export function isLoopbackOrPrivate(address: string): boolean {
  return isIn(address, loopback) || isIn(address, local)
}

/** True for an address that means something else on every machine or link. */
export function isLoopbackOrLinkLocal(address: string): boolean {
  return isIn(address, loopback) || isIn(address, linkLocal)
}

const loopback = ['127.0.0.0/8', '::1/128'].map(parsePrefix)
const linkLocal = ['169.254.0.0/16', 'fe80::/10'].map(parsePrefix)
const local = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '169.254.0.0/16', 'fc00::/7', 'fe80::/10'].map(
  parsePrefix,
)

function isIn(address: string, prefixes: readonly Prefix[]): boolean {
  const parsed = parseAddress(address)
  return prefixes.some((prefix) => prefixContains(prefix, parsed))
}
