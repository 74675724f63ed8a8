import { join } from 'node:path'
import { fromBinary, toBinary } from '@bufbuild/protobuf'
import { readPrivateFile, writeFileAtomic } from '../base/files.ts'
import { isJsonObject, readJsonObject } from '../base/json.ts'
import type { Log } from '../base/log.ts'
import { type Connection, ConnectionSchema } from '../nsm/generated/connection_pb.js'
import { generatePrivateKey } from '../tunnel/wireguard/keys.ts'

/** What is remembered of a service: with it, a restarted process takes its address over [nsm-protocol 4.11]. */
export interface Remembered {
  readonly connectionId: string
  /** WireGuard, 32 bytes. */
  readonly privateKey: Uint8Array
  /** The last answer, while the lease may still run. */
  readonly last?: Connection
  /** The manager that gave it. */
  readonly manager?: string
}

/** Remembers connections over restarts in one private file. */
export interface ConnectionStore {
  /** The name in our path segments. */
  readonly clientName: string
  /** What is known of a service; the first time a new id and key. */
  get(service: string): Remembered
  /** Keeps the last answer. */
  setLast(service: string, last: { readonly connection: Connection; readonly manager: string } | undefined): void
  /** Resolves when everything is on disk. */
  flush(): Promise<void>
}

/** Everything a store is made from. */
export interface StoreSettings {
  readonly stateDir: string
  readonly hostName: string
  /** A random hexadecimal text, new at each call. */
  readonly randomId: () => string
  readonly log: Log
}

interface StoredFile {
  readonly version: 1
  readonly clientName: string
  readonly services: Readonly<Record<string, StoredService>>
}

interface StoredService {
  readonly connectionId: string
  readonly privateKey: string
  readonly last?: string
  readonly manager?: string
}

/** Opens the store of a state directory; a file that cannot be read is left behind and a new one begun. */
export async function openConnectionStore(settings: StoreSettings): Promise<ConnectionStore> {
  const path = join(settings.stateDir, 'connections.json')
  const stored = await readStored(path, settings.log)
  const clientName = stored?.clientName ?? `${settings.hostName}-${settings.randomId()}`
  const services = new Map<string, Remembered>()
  for (const [service, entry] of Object.entries(stored?.services ?? {})) services.set(service, fromStored(entry))
  return new FileStore({ ...settings, path, clientName, services })
}

interface FileStoreParts extends StoreSettings {
  readonly path: string
  readonly clientName: string
  readonly services: Map<string, Remembered>
}

class FileStore implements ConnectionStore {
  readonly clientName: string
  readonly #parts: FileStoreParts
  #writing: Promise<void> = Promise.resolve()
  #dirty = false

  constructor(parts: FileStoreParts) {
    this.#parts = parts
    this.clientName = parts.clientName
  }

  get(service: string): Remembered {
    const known = this.#parts.services.get(service)
    if (known) return known
    const fresh = { connectionId: `${this.clientName}-${this.#parts.randomId()}`, privateKey: generatePrivateKey() }
    this.#parts.services.set(service, fresh)
    this.#save()
    return fresh
  }

  setLast(service: string, last: { readonly connection: Connection; readonly manager: string } | undefined): void {
    const { connectionId, privateKey } = this.get(service)
    const kept = { connectionId, privateKey }
    this.#parts.services.set(service, last ? { ...kept, last: last.connection, manager: last.manager } : kept)
    this.#save()
  }

  flush(): Promise<void> {
    return this.#writing
  }

  /** Several changes in a row become one write. */
  #save(): void {
    if (this.#dirty) return
    this.#dirty = true
    this.#writing = this.#writing.then(async () => {
      this.#dirty = false
      await writeFileAtomic(this.#parts.path, this.#text()).catch((error: unknown) => {
        this.#parts.log.warn('the connections could not be remembered', { error: String(error) })
      })
    })
  }

  #text(): string {
    const services = Object.fromEntries([...this.#parts.services].map(([service, entry]) => [service, toStored(entry)]))
    const file: StoredFile = { version: 1, clientName: this.clientName, services }
    return `${JSON.stringify(file)}\n`
  }
}

async function readStored(path: string, log: Log): Promise<StoredFile | undefined> {
  const text = await readPrivateFile(path)
  if (text === undefined) return undefined
  const file: unknown = readJsonObject(text)
  if (isStoredFile(file)) return file
  log.warn('the remembered connections cannot be read and are forgotten', { path })
  return undefined
}

function isStoredFile(value: unknown): value is StoredFile {
  if (!isJsonObject(value) || value['version'] !== 1 || typeof value['clientName'] !== 'string') return false
  return isJsonObject(value['services']) && Object.values(value['services']).every(isStoredService)
}

function isStoredService(value: unknown): value is StoredService {
  if (!isJsonObject(value) || typeof value['connectionId'] !== 'string' || typeof value['privateKey'] !== 'string')
    return false
  return [value['last'], value['manager']].every((text) => text === undefined || typeof text === 'string')
}

function fromStored(entry: StoredService): Remembered {
  const kept = { connectionId: entry.connectionId, privateKey: new Uint8Array(Buffer.from(entry.privateKey, 'base64')) }
  if (entry.last === undefined || entry.manager === undefined) return kept
  return { ...kept, last: fromBinary(ConnectionSchema, Buffer.from(entry.last, 'base64')), manager: entry.manager }
}

function toStored(entry: Remembered): StoredService {
  const kept = { connectionId: entry.connectionId, privateKey: Buffer.from(entry.privateKey).toString('base64') }
  if (!entry.last || entry.manager === undefined) return kept
  return {
    ...kept,
    last: Buffer.from(toBinary(ConnectionSchema, entry.last)).toString('base64'),
    manager: entry.manager,
  }
}
