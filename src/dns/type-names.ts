import { NsmError } from '../base/errors.ts'

/** Names of record types. [IANA dns-parameters] */
const numbers: Readonly<Record<string, number>> = {
  A: 1,
  NS: 2,
  CNAME: 5,
  SOA: 6,
  PTR: 12,
  HINFO: 13,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  NAPTR: 35,
  DNAME: 39,
  DS: 43,
  SSHFP: 44,
  RRSIG: 46,
  NSEC: 47,
  DNSKEY: 48,
  TLSA: 52,
  SVCB: 64,
  HTTPS: 65,
  ANY: 255,
  CAA: 257,
}

const names = new Map(Object.entries(numbers).map(([name, number]) => [number, name]))
const rcodes = ['NOERROR', 'FORMERR', 'SERVFAIL', 'NXDOMAIN', 'NOTIMP', 'REFUSED', 'YXDOMAIN', 'YXRRSET', 'NXRRSET']

/** The number of a type in text: a name or `TYPE` with its number [RFC 3597 5]; throws `USAGE`. */
export function typeFromText(text: string): number {
  const upper = text.toUpperCase()
  const known = Object.hasOwn(numbers, upper) ? numbers[upper] : undefined
  const number = known ?? Number(/^TYPE(\d{1,5})$/.exec(upper)?.[1] ?? Number.NaN)
  if (number <= 0xffff) return number
  throw new NsmError('USAGE', `"${text.slice(0, 32)}" is not a record type`, 'write it like AAAA or TYPE65')
}

/** The text of a type. */
export function typeText(type: number): string {
  return names.get(type) ?? `TYPE${type}`
}

/** The text of a response code. */
export function rcodeText(rcode: number): string {
  return rcodes[rcode] ?? `RCODE${rcode}`
}
