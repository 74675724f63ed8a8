import { isIPv4 } from 'node:net'
import {
  aaaaRecord,
  aRecord,
  buildAnswer,
  buildRefused,
  nameFromText,
  nsRecord,
  parseQuery,
  ptrRecord,
  type Query,
  recordType,
  responseCode,
  soaRecord,
  type WireRecord,
} from '../dns/message.ts'
import { labelsOfKey } from '../dns/name.ts'
import { gatewayLabel, lookUp, type ZoneEntry, type ZoneSource } from './zone.ts'

/** [RFC 1035 4.2] The port of name servers. */
export const dnsPort = 53

/** Ours: seconds a member's address may be kept; a member that comes back keeps its address, so this can be long. */
const addressTtlSeconds = 30
/** Ours: seconds "no such name" may be kept: as long as a member that has just joined may stay unseen. */
const negativeTtlSeconds = 5

/**
 * Answers one DNS message of a client with authority for the vL3's zones; undefined for what needs no answer. Pure and total:
 * no input makes it throw. `limitBytes`: by default what the client takes over UDP.
 */
export function answerQuery(source: ZoneSource, message: Uint8Array, limitBytes?: number): Uint8Array | undefined {
  const query = parseQuery(message)
  if (query.kind === 'dropped') return undefined
  if (query.kind === 'rejected') return query.reply
  const entry = query.class === classInternet ? lookUp(source, labelsOfKey(query.nameKey.slice(0, -1))) : outside
  if (entry.kind === 'outside') return buildRefused(query)
  const records = entry.kind === 'known' ? recordsOf(source, entry, query.type) : []
  return buildAnswer({
    query,
    rcode: entry.kind === 'known' ? responseCode.noError : responseCode.nameError,
    records,
    authority: records.length > 0 ? [] : [startOfAuthority(source, entry.zone)],
    authoritative: true,
    ...(limitBytes === undefined ? {} : { limitBytes }),
  })
}

/** [RFC 1035 3.2.4] */
const classInternet = 1
const outside: ZoneEntry = { kind: 'outside' }

/** [RFC 1035 4.1.4] A pointer to the question's name, which every record of an answer section here belongs to. */
const questionName = Uint8Array.of(0xc0, 12)

type KnownEntry = Extract<ZoneEntry, { readonly kind: 'known' }>

function recordsOf(source: ZoneSource, entry: KnownEntry, type: Query['type']): WireRecord[] {
  const records = entry.addresses.map((address) =>
    isIPv4(address)
      ? aRecord(questionName, address, addressTtlSeconds)
      : aaaaRecord(questionName, address, addressTtlSeconds),
  )
  if (entry.pointsTo) records.push(ptrRecord(questionName, entry.pointsTo, addressTtlSeconds))
  if (entry.isApex) {
    records.push(startOfAuthority(source, entry.zone, questionName))
    records.push(nsRecord(questionName, primaryOf(source), addressTtlSeconds))
  }
  return type === recordType.any ? records : records.filter((record) => record.type === type)
}

/** The serial never moves: the zone has no secondaries to tell. */
function startOfAuthority(source: ZoneSource, zone: string, owner = nameFromText(zone)): WireRecord {
  return soaRecord(owner, { primary: primaryOf(source), serial: 1, negativeTtlSeconds })
}

function primaryOf(source: ZoneSource): string {
  return `${gatewayLabel}.${source.dnsDomain}`
}
