import { createConnection, type Socket } from 'node:net'
import { type Clock, systemClock } from '../base/clock.ts'
import { errorFromData, isErrorData, NsmError, toNsmError } from '../base/errors.ts'
import { isJsonObject, type JsonObject } from '../base/json.ts'
import { encodeLine, LineReader } from './json-lines.ts'

/** Calls over one connection to a unix socket. */
export interface RpcClient {
  call(method: string, parameters: object, options?: CallOptions): Promise<JsonObject>
  close(): Promise<void>
}

/** Notes while the call runs, and what cancels it: the caller then still waits for the answer, `cancelledMs` at most. */
export interface CallOptions {
  readonly note?: (note: JsonObject) => void
  readonly signal?: AbortSignal
  /** The longest the answer may take; 10 s by default. */
  readonly timeoutMs?: number
}

/** Nobody listens. */
export class AbsentPeer extends NsmError {}

/** The other side holds the connection and says nothing: it hangs, or is stopped. */
export class SilentPeer extends NsmError {}

/** Ours: every call but `connect` is answered from memory or ends by itself before. */
const answerTimeoutMs = 10_000
/** Ours: who was told to stop undoes what was begun, and needs no more than this. */
const cancelledMs = 5_000
/** Ours: a peer that hangs does not close its end. */
const closeTimeoutMs = 500

/** Connects; throws `UNREACHABLE` when nobody listens, `PERMISSION` when the socket's mode says no. */
export function connectRpc(path: string, clock: Clock = systemClock): Promise<RpcClient> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path)
    socket.once('error', (error) => reject(notConnected(path, error)))
    socket.once('connect', () => {
      socket.removeAllListeners('error')
      resolve(new SocketClient(socket, clock))
    })
  })
}

interface Pending {
  readonly resolve: (result: JsonObject) => void
  readonly reject: (error: NsmError) => void
  readonly note: ((note: JsonObject) => void) | undefined
}

class SocketClient implements RpcClient {
  readonly #socket: Socket
  readonly #reader = new LineReader(answerMaxBytes)
  readonly #pending = new Map<number, Pending>()
  readonly #clock: Clock
  #lastId = 0

  constructor(socket: Socket, clock: Clock) {
    this.#socket = socket
    this.#clock = clock
    socket.on('data', (chunk) => this.#receive(chunk))
    socket.on('error', () => {})
    socket.on('close', () => this.#fail(lost()))
  }

  call(method: string, parameters: object, options: CallOptions = {}): Promise<JsonObject> {
    this.#lastId += 1
    const id = this.#lastId
    const { signal, timeoutMs = answerTimeoutMs } = options
    const giveUp = () => {
      this.#pending.get(id)?.reject(silent())
      this.#pending.delete(id)
    }
    let stopWaiting = this.#clock.after(timeoutMs, giveUp)
    const cancel = () => {
      this.#socket.write(encodeLine({ cancel: id }))
      stopWaiting()
      stopWaiting = this.#clock.after(Math.min(cancelledMs, timeoutMs), giveUp)
    }
    return new Promise<JsonObject>((resolve, reject) => {
      if (!this.#socket.writable) return reject(lost())
      this.#pending.set(id, { resolve, reject, note: options.note })
      this.#socket.write(encodeLine({ id, method, params: parameters }))
      if (signal?.aborted) cancel()
      signal?.addEventListener('abort', cancel, { once: true })
    }).finally(() => {
      stopWaiting()
      signal?.removeEventListener('abort', cancel)
    })
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#socket.closed) return resolve()
      const stopWaiting = this.#clock.after(closeTimeoutMs, () => this.#socket.destroy())
      this.#socket.once('close', () => {
        stopWaiting()
        resolve()
      })
      this.#socket.end()
    })
  }

  #receive(chunk: Uint8Array): void {
    try {
      for (const message of this.#reader.push(chunk)) this.#handle(message)
    } catch (error) {
      this.#fail(toNsmError(error))
      this.#socket.destroy()
    }
  }

  #handle(message: JsonObject): void {
    const { id, progress, result, error } = message
    if (typeof id !== 'number') {
      if (isErrorData(error)) this.#fail(errorFromData(error))
      return
    }
    const pending = this.#pending.get(id)
    if (isJsonObject(progress)) {
      pending?.note?.(progress)
      return
    }
    this.#pending.delete(id)
    if (isErrorData(error)) pending?.reject(errorFromData(error))
    else if (isJsonObject(result)) pending?.resolve(result)
    else pending?.reject(lost())
  }

  #fail(error: NsmError): void {
    for (const { reject } of this.#pending.values()) reject(error)
    this.#pending.clear()
  }
}

/** Ours: the longest answer, `list` of a large registry. */
const answerMaxBytes = 16 * 1024 * 1024

function notConnected(path: string, cause: NodeJS.ErrnoException): NsmError {
  if (cause.code === 'EACCES') {
    return new NsmError('PERMISSION', `${path} belongs to another user`, 'run it as that user, or with sudo', { cause })
  }
  return new AbsentPeer('UNREACHABLE', 'no background process runs', '`nsm connect` starts one', { cause })
}

function lost(): NsmError {
  return new NsmError('UNREACHABLE', 'the background process ended the connection', 'run the command again')
}

function silent(): NsmError {
  return new SilentPeer('UNREACHABLE', 'the background process does not answer', 'kill it, then run `nsm cleanup`')
}
