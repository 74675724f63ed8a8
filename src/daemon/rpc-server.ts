import { chmod } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { type Audit, noAudit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { JsonObject } from '../base/json.ts'
import { listenPrivately } from '../base/listen-privately.ts'
import type { Log } from '../base/log.ts'
import { encodeLine, LineReader } from './json-lines.ts'
import { canReadCredentials, type PeerCredentials, peerCredentials } from './peer-credentials.ts'

/** Who calls, and how far the caller may go [security L3]. */
export interface Caller {
  /** True for the user of this process and for root. */
  readonly mayAct: boolean
}

/** One method: parameters as they came, notes back while it runs, cancelled by the signal. */
export type Method = (
  parameters: unknown,
  call: { readonly caller: Caller; readonly note: (note: object) => void; readonly signal: AbortSignal },
) => Promise<object>

/** Everything a socket server is made from. */
export interface RpcServerSettings {
  readonly path: string
  readonly methods: Readonly<Record<string, Method>>
  /** Methods that only the user of this process and root may call. */
  readonly guarded: readonly string[]
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
  /** The number of open connections changed. */
  readonly onConnections?: (count: number) => void
  /** The kernel's word on a peer; a double in tests. */
  readonly credentialsOf?: (socket: Socket) => PeerCredentials | undefined
}

/** A listening socket server. */
export interface RpcServer {
  /** Ends every call and connection and removes the socket. */
  close(): Promise<void>
}

/** Ours [security L15]. */
const connectionsMax = 64
/** Ours: of all users who may not act; the own user and root always find room. */
const strangersMax = 32
/** Ours [security L15]: of one of them. */
const strangerMax = 8
/** Ours [security L15]. */
const firstMessageMs = 5_000
/** Ours: calls under way on one connection. */
const callsMax = 16
/** Ours: who has as many bytes of answers to read gets no more of them; our client asks when it has read. */
const unreadMaxBytes = 1024 * 1024
/** Ours: what was written last leaves within this, or never: whoever does not read must not hold up the end. */
const farewellMs = 500

/**
 * Listens on a unix socket. It is open to everybody only when the kernel says who calls; it is never open for a moment
 * before its mode is set. The caller holds the lock of the path: a socket that is already there is a dead one's.
 */
export async function startRpcServer(settings: RpcServerSettings): Promise<RpcServer> {
  const sessions = new Set<Session>()
  const server = createServer({ allowHalfOpen: false }, (socket) => {
    const peer = (settings.credentialsOf ?? peerCredentials)(socket)
    if (!hasRoom(sessions, peer)) return void socket.destroy()
    const onEnd = () => {
      sessions.delete(session)
      settings.onConnections?.(sessions.size)
    }
    const session: Session = new Session(socket, { settings, peer, onEnd })
    sessions.add(session)
    settings.onConnections?.(sessions.size)
  })
  const stop = await listenPrivately(server, settings.path)
  if (canReadCredentials()) await chmod(settings.path, 0o666)
  return {
    async close() {
      const stopped = stop()
      for (const session of sessions) session.end()
      await stopped
    },
  }
}

function hasRoom(sessions: ReadonlySet<Session>, peer: PeerCredentials | undefined): boolean {
  if (sessions.size >= connectionsMax) return false
  if (mayAct(peer)) return true
  const strangers = [...sessions].filter(({ caller }) => !caller.mayAct)
  return strangers.length < strangersMax && strangers.filter(({ uid }) => uid === peer?.uid).length < strangerMax
}

/** One connection: messages in, each a call with its number, answers out in any order. */
class Session {
  readonly #socket: Socket
  readonly #settings: RpcServerSettings
  readonly caller: Caller
  /** What the kernel says of the caller. */
  readonly uid: number | undefined
  readonly #calls = new Map<number, AbortController>()
  readonly #reader = new LineReader()

  constructor(
    socket: Socket,
    parts: {
      readonly settings: RpcServerSettings
      readonly peer: PeerCredentials | undefined
      readonly onEnd: () => void
    },
  ) {
    const { settings, peer, onEnd } = parts
    this.#socket = socket
    this.#settings = settings
    this.uid = peer?.uid
    this.caller = { mayAct: mayAct(peer) }
    const silent = settings.clock.after(firstMessageMs, () => socket.destroy())
    socket.once('data', silent)
    socket.on('data', (chunk) => this.#receive(chunk))
    socket.on('error', () => {})
    socket.on('close', () => {
      silent()
      for (const call of this.#calls.values()) call.abort(gone())
      onEnd()
    })
  }

  end(): void {
    for (const call of this.#calls.values()) call.abort(gone())
    this.#socket.end()
    this.#socket.destroySoon()
    this.#socket.once(
      'close',
      this.#settings.clock.after(farewellMs, () => this.#socket.destroy()),
    )
  }

  #receive(chunk: Uint8Array): void {
    try {
      for (const message of this.#reader.push(chunk)) this.#handle(message)
    } catch (error) {
      this.#send({ error: toNsmError(error).toData() })
      this.#socket.destroySoon()
    }
  }

  #handle(message: JsonObject): void {
    if (this.#socket.writableLength > unreadMaxBytes) return void this.#socket.destroy()
    const { id, method, cancel } = message
    if (typeof cancel === 'number') {
      this.#calls.get(cancel)?.abort(cancelled())
      return
    }
    if (typeof id !== 'number' || typeof method !== 'string' || this.#calls.has(id)) throw malformed()
    if (this.#calls.size >= callsMax) throw malformed()
    void this.#call({ id, method, parameters: message['params'] })
  }

  async #call({ id, method, parameters }: { id: number; method: string; parameters: unknown }): Promise<void> {
    const abort = new AbortController()
    this.#calls.set(id, abort)
    try {
      const run = this.#permitted(method)
      const note = (note: object) => this.#send({ id, progress: note })
      const result = await run(parameters, { caller: this.caller, note, signal: abort.signal })
      this.#send({ id, result })
    } catch (error) {
      this.#send({ id, error: toNsmError(error).toData() })
    } finally {
      this.#calls.delete(id)
    }
  }

  #permitted(method: string): Method {
    const { methods, guarded, log, audit = noAudit } = this.#settings
    const run = Object.hasOwn(methods, method) ? methods[method] : undefined
    if (!run)
      throw new NsmError('USAGE', `unknown method ${method.slice(0, 64)}`, 'use the nsm command of this version')
    if (!guarded.includes(method) || this.caller.mayAct) return run
    log.warn('a call of another user was refused', { method })
    audit.record({ event: 'socket.deny', uid: this.uid, method })
    throw new NsmError(
      'PERMISSION',
      `only root and the user of the background process may ${method}`,
      'run it as that user, or with sudo',
    )
  }

  #send(message: object): void {
    if (this.#socket.writable) this.#socket.write(encodeLine(message))
  }
}

/** Without the kernel's word the socket's mode has let only the own user in. */
function mayAct(peer: PeerCredentials | undefined): boolean {
  if (!peer) return !canReadCredentials()
  return peer.uid === 0 || peer.uid === process.getuid?.()
}

function gone(): NsmError {
  return new NsmError('LOST', 'the caller is gone', 'nothing')
}

function cancelled(): NsmError {
  return new NsmError('NOT_READY', 'cancelled', 'run the command again')
}

function malformed(): NsmError {
  return new NsmError('USAGE', 'a message has no number and method of its own', 'use the nsm command of this version')
}
