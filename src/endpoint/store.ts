import type { DatabaseSync, SQLOutputValue } from 'node:sqlite'
import { groupWrites, openDatabase } from '../base/database.ts'
import type { Member } from './members.ts'

/** What one member was given, as kept on disk. */
export interface Lease extends Member {
  /** Wall milliseconds; set once the lease has ended and its addresses rest. */
  readonly releasedMs: number | undefined
}

/** Leases and the endpoint's WireGuard key; survives restarts. */
export interface EndpointStore {
  /** The WireGuard private key kept under this service's name; made by `generate` on the first call. */
  privateKey(service: string, generate: () => Uint8Array): Uint8Array
  /** All leases of a service, those that ended first come first. */
  leases(service: string): readonly Lease[]
  /** Adds the lease or replaces the one of the same member (SPIFFE ID and connection id); `committed` says when it stays. */
  put(service: string, lease: Lease): void
  /** Forgets the leases whose addresses were released at or before this time; gives their number. */
  forgetReleased(service: string, untilMs: number): number
  /** Resolves when every lease that was put survives the end of this process. */
  committed(): Promise<void>
  close(): void
}

/** Opens the SQLite file, private because of the key in it; throws `CONFLICT` for another schema version. */
export function openEndpointStore(path: string): EndpointStore {
  return storeOver(openDatabase({ path, schema, schemaVersion, steps }))
}

/** Ours: raised with each change of the tables. */
const schemaVersion = 3

const schema = `
  CREATE TABLE endpoint_keys (service TEXT PRIMARY KEY, private_key BLOB NOT NULL) STRICT;
  CREATE TABLE endpoint_leases (
    service TEXT NOT NULL, spiffe_id TEXT NOT NULL, connection_id TEXT NOT NULL, segment_id TEXT NOT NULL,
    public_key TEXT NOT NULL, addresses TEXT NOT NULL, label TEXT, expires_ms INTEGER NOT NULL,
    underlay_address TEXT, underlay_port INTEGER, released_ms INTEGER,
    origin TEXT, mtu_bytes INTEGER,
    PRIMARY KEY (service, spiffe_id, connection_id)
  ) STRICT;
`
const steps = [
  'ALTER TABLE endpoint_leases ADD COLUMN origin TEXT;',
  'ALTER TABLE endpoint_leases ADD COLUMN mtu_bytes INTEGER;',
]

function storeOver(database: DatabaseSync): EndpointStore {
  const readKey = database.prepare('SELECT private_key FROM endpoint_keys WHERE service = ?')
  const writeKey = database.prepare('INSERT INTO endpoint_keys (service, private_key) VALUES (?, ?)')
  const readLeases = database.prepare(
    'SELECT * FROM endpoint_leases WHERE service = ? ORDER BY released_ms IS NULL, released_ms, expires_ms',
  )
  const putLease = database.prepare(`INSERT INTO endpoint_leases (service, spiffe_id, connection_id,
    segment_id, public_key, addresses, label, expires_ms, underlay_address, underlay_port, released_ms,
    origin, mtu_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET segment_id = excluded.segment_id,
    public_key = excluded.public_key, addresses = excluded.addresses, label = excluded.label,
    expires_ms = excluded.expires_ms, underlay_address = excluded.underlay_address,
    underlay_port = excluded.underlay_port, released_ms = excluded.released_ms, origin = excluded.origin,
    mtu_bytes = excluded.mtu_bytes`)
  const forget = database.prepare('DELETE FROM endpoint_leases WHERE service = ? AND released_ms <= ?')
  const writes = groupWrites(database)
  return {
    privateKey(service, generate) {
      const found = readKey.get(service)?.['private_key']
      if (found instanceof Uint8Array) return found
      const made = generate()
      writeKey.run(service, made)
      return made
    },
    leases: (service) => readLeases.all(service).map(toLease),
    put(service, lease) {
      const { underlay } = lease
      writes.begin()
      putLease.run(
        ...[service, lease.spiffeId, lease.connectionId, lease.segmentId, lease.publicKey],
        ...[lease.addresses.join(' '), lease.label ?? null, Math.floor(lease.expiresMs)],
        ...[underlay?.address ?? null, underlay?.port ?? null],
        ...[lease.releasedMs === undefined ? null : Math.floor(lease.releasedMs), lease.origin ?? null],
        lease.mtuBytes ?? null,
      )
    },
    forgetReleased: (service, untilMs) => Number(forget.run(service, Math.floor(untilMs)).changes),
    committed: writes.committed,
    close() {
      writes.finish()
      database.close()
    },
  }
}

function toLease(row: Record<string, SQLOutputValue>): Lease {
  const address = row['underlay_address']
  return {
    segmentId: String(row['segment_id']),
    spiffeId: String(row['spiffe_id']),
    origin: row['origin'] === null ? undefined : String(row['origin']),
    connectionId: String(row['connection_id']),
    publicKey: String(row['public_key']),
    addresses: String(row['addresses']).split(' '),
    label: row['label'] === null ? undefined : String(row['label']),
    expiresMs: Number(row['expires_ms']),
    underlay: address === null ? undefined : { address: String(address), port: Number(row['underlay_port']) },
    mtuBytes: row['mtu_bytes'] === null ? undefined : Number(row['mtu_bytes']),
    releasedMs: row['released_ms'] === null ? undefined : Number(row['released_ms']),
  }
}
