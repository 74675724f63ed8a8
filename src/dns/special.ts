import {
  aaaaRecord,
  aRecord,
  buildAnswer,
  keyFromText,
  nameFromKey,
  ptrRecord,
  type Query,
  soaRecord,
  type WireRecord,
} from './message.ts'
import { reverseNameOf } from './name.ts'
import { recordType, responseCode } from './wire.ts'

/** What decides about special names besides the name. */
export interface SpecialContext {
  /** True when some scope covers the name. */
  readonly inScope: boolean
  /** True when any scope exists. */
  readonly anyScope: boolean
  /** The address this resolver listens on. */
  readonly listenAddress: string
  readonly limitBytes?: number
}

/** Answers names that never go upstream; undefined for all others. [RFC 6761, RFC 7686, RFC 9462] */
export function answerSpecial(query: Query, context: SpecialContext): Buffer | undefined {
  const key = query.nameKey
  if (key.endsWith(localhost)) return underLocalhost(query, context)
  if (key.endsWith(invalid) || key.endsWith(onion)) return negative(query, responseCode.nameError, context)
  if (key.endsWith(resolverArpa)) return negative(query, responseCode.noError, context)
  if (key === dohCanary && context.anyScope) return negative(query, responseCode.nameError, context)
  if (!context.inScope && browsing.some((front) => key.startsWith(front)))
    return negative(query, responseCode.nameError, context)
  if (key.endsWith(reverseLoopback) && key === keyFromText(reverseNameOf(context.listenAddress))) {
    return addressOrNothing(query, [ptrRecord(nameFromKey(key), ownName, ttlSeconds)], context)
  }
  return undefined
}

/** The name by which a program finds out that it talks to this resolver. */
export const ownName = 'nsm.localhost'

const localhost = keyFromText('localhost')
const invalid = keyFromText('invalid')
const onion = keyFromText('onion')
const resolverArpa = keyFromText('resolver.arpa')
const dohCanary = keyFromText('use-application-dns.net')
const reverseLoopback = keyFromText('127.in-addr.arpa')
const ownKey = keyFromText(ownName)
/** Service browsing of printers and the like. [RFC 6763 11] */
const browsing = ['b', 'db', 'r', 'dr', 'lb'].map((label) => keyFromText(`${label}._dns-sd._udp`).slice(0, -1))
/** Ours: so short that a stub does not keep what a later scope may change. */
const ttlSeconds = 10

function underLocalhost(query: Query, context: SpecialContext): Buffer {
  const name = nameFromKey(query.nameKey)
  const address = query.nameKey === ownKey && !context.listenAddress.includes(':') ? context.listenAddress : '127.0.0.1'
  const records = query.nameKey === ownKey ? [aRecord(name, address, ttlSeconds)] : bothLoopbacks(name)
  return addressOrNothing(query, records, context)
}

function bothLoopbacks(name: Uint8Array): readonly WireRecord[] {
  return [aRecord(name, '127.0.0.1', ttlSeconds), aaaaRecord(name, '::1', ttlSeconds)]
}

function addressOrNothing(query: Query, records: readonly WireRecord[], context: SpecialContext): Buffer {
  const fitting = records.filter((record) => record.type === query.type)
  if (fitting.length === 0) return negative(query, responseCode.noError, context)
  return buildAnswer({
    query,
    rcode: responseCode.noError,
    records: fitting,
    authoritative: false,
    ...limitOf(context),
  })
}

/** A "no" made here carries a SOA with a short life: stubs keep one without for long. [RFC 2308 5] */
function negative(query: Query, rcode: number, context: SpecialContext): Buffer {
  const zone = nameFromKey(query.nameKey)
  const authority = [soaRecord(zone, { primary: ownName, serial: 1, negativeTtlSeconds: ttlSeconds })]
  return buildAnswer({ query, rcode, records: [], authority, authoritative: false, ...limitOf(context) })
}

function limitOf(context: SpecialContext): { readonly limitBytes?: number } {
  return context.limitBytes === undefined ? {} : { limitBytes: context.limitBytes }
}

/** Types that mean something else than "this name, this record": transfers and lists. [RFC 1035 3.2.3, RFC 8482] */
export function isMetaType(type: number): boolean {
  return type === recordType.any || (type >= 249 && type <= 254)
}
