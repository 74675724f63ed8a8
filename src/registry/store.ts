import type { DatabaseSync } from 'node:sqlite'
import { fromBinary, toBinary } from '@bufbuild/protobuf'
import { groupWrites, openDatabase } from '../base/database.ts'
import {
  type NetworkService,
  type NetworkServiceEndpoint,
  NetworkServiceEndpointSchema,
  NetworkServiceSchema,
} from '../nsm/generated/registry_pb.js'

/** A registered service and the SPIFFE ID its name is bound to. */
export interface StoredService {
  readonly service: NetworkService
  readonly owner: string
}

/** A registered endpoint, the SPIFFE ID its name is bound to and its end in wall milliseconds. */
export interface StoredEndpoint {
  readonly endpoint: NetworkServiceEndpoint
  readonly owner: string
  readonly expiresMs: number
}

/** What the registry knows; a change shows at once, and `committed` says when it stays. The messages it gives are not to be changed. */
export interface RegistryStore {
  service(name: string): StoredService | undefined
  services(): StoredService[]
  putService(stored: StoredService): void
  deleteService(name: string): void
  endpoint(name: string): StoredEndpoint | undefined
  endpoints(): StoredEndpoint[]
  putEndpoint(stored: StoredEndpoint): void
  deleteEndpoint(name: string): void
  /** Resolves when all changes survive the end of this process; rejects for changes that are undone. */
  committed(): Promise<void>
  close(): void
}

/** Raise it with each change of the tables, and say in `open` how the older one becomes the newer. */
const schemaVersion = 1

const schema = `
  CREATE TABLE services (name TEXT PRIMARY KEY, owner TEXT NOT NULL, message BLOB NOT NULL) STRICT;
  CREATE TABLE endpoints (name TEXT PRIMARY KEY, owner TEXT NOT NULL, expires_ms INTEGER NOT NULL, message BLOB NOT NULL) STRICT;
`

/** Opens or makes the file; `:memory:` keeps nothing. Throws `CONFLICT` for a file of a newer version. */
export function openRegistryStore(path: string): RegistryStore {
  const database = openDatabase({ path, schema, schemaVersion })
  let services = loadAll(database, 'services', serviceOf)
  let endpoints = loadAll(database, 'endpoints', endpointOf)
  const writes = groupWrites(database, () => {
    services = loadAll(database, 'services', serviceOf)
    endpoints = loadAll(database, 'endpoints', endpointOf)
  })
  const putService = database.prepare(`INSERT INTO services VALUES (?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, message = excluded.message`)
  const putEndpoint = database.prepare(`INSERT INTO endpoints VALUES (?, ?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, expires_ms = excluded.expires_ms, message = excluded.message`)
  const removeService = database.prepare('DELETE FROM services WHERE name = ?')
  const removeEndpoint = database.prepare('DELETE FROM endpoints WHERE name = ?')
  return {
    service: (name) => services.get(name),
    services: () => [...services.values()],
    putService(stored) {
      const { service, owner } = stored
      writes.begin()
      putService.run(service.name, owner, toBinary(NetworkServiceSchema, service))
      services.set(service.name, stored)
    },
    deleteService(name) {
      writes.begin()
      removeService.run(name)
      services.delete(name)
    },
    endpoint: (name) => endpoints.get(name),
    endpoints: () => [...endpoints.values()],
    putEndpoint(stored) {
      const { endpoint, owner, expiresMs } = stored
      writes.begin()
      putEndpoint.run(endpoint.name, owner, Math.floor(expiresMs), toBinary(NetworkServiceEndpointSchema, endpoint))
      endpoints.set(endpoint.name, stored)
    },
    deleteEndpoint(name) {
      writes.begin()
      removeEndpoint.run(name)
      endpoints.delete(name)
    },
    committed: writes.committed,
    close() {
      writes.finish()
      database.close()
    },
  }
}

/** The file is read once, and again after changes that were undone; every change goes to both, and reading costs no query. */
function loadAll<T>(database: DatabaseSync, table: string, read: (row: Row) => T): Map<string, T> {
  const rows: Row[] = database.prepare(`SELECT * FROM ${table} ORDER BY rowid`).all()
  return new Map(rows.map((row) => [String(row['name']), read(row)]))
}

type Row = Readonly<Record<string, unknown>>

function serviceOf(row: Row): StoredService {
  return { service: fromBinary(NetworkServiceSchema, blob(row)), owner: String(row['owner']) }
}

function endpointOf(row: Row): StoredEndpoint {
  const endpoint = fromBinary(NetworkServiceEndpointSchema, blob(row))
  return { endpoint, owner: String(row['owner']), expiresMs: Number(row['expires_ms']) }
}

function blob(row: Row): Uint8Array {
  const message = row['message']
  return message instanceof Uint8Array ? message : new Uint8Array()
}
