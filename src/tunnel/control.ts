import type { MessagePort, Worker } from 'node:worker_threads'
import { type ErrorData, errorFromData, NsmError, toNsmError } from '../base/errors.ts'
import type { TunHandle } from './tun/linux-device.ts'
import type { Wake } from './tun/linux-wake.ts'
import type { TunnelStats } from './tunnel-stats.ts'
import type { EngineKind, PeerSettings } from './wireguard/engine.ts'

/** What the packet worker's thread boots with, before anybody knows what for. */
export interface WorkerBoot {
  readonly module: WebAssembly.Module
  readonly wakeFd: number
  readonly port: MessagePort
  /** False when the engine was tested in this process before. */
  readonly selfTest: boolean
}

/** The first message: what for. Descriptors belong to the process, so their numbers are enough. */
export interface WorkerStart {
  readonly kind: EngineKind
  readonly privateKey: Uint8Array
  readonly tun?: TunHandle
  readonly udp: { readonly fd: number; readonly segments?: boolean }
}

/** What the main thread may ask of the packet worker. */
export type Request =
  | { readonly kind: 'setPeer'; readonly peer: PeerSettings }
  | { readonly kind: 'removePeer'; readonly publicKey: Uint8Array }
  /** Answered when a session younger than the request exists. */
  | { readonly kind: 'handshake'; readonly publicKey: Uint8Array }
  | { readonly kind: 'cancel'; readonly requestId: number }
  | { readonly kind: 'setGateways'; readonly gateways: readonly string[]; readonly localUdpPorts: readonly number[] }
  | { readonly kind: 'sendLocal'; readonly packet: Uint8Array }
  | { readonly kind: 'stats' }
  | { readonly kind: 'close' }

/** A request with the number its answer carries. */
export interface NumberedRequest {
  readonly id: number
  readonly request: Request
}

/** What the packet worker says. */
export type WorkerMessage =
  | { readonly kind: 'ready' }
  | { readonly kind: 'answer'; readonly id: number; readonly stats?: TunnelStats; readonly error?: ErrorData }
  | { readonly kind: 'local'; readonly packet: Uint8Array }
  | { readonly kind: 'failed'; readonly error: ErrorData }

/** The parts a control talks through. */
export interface ControlParts {
  readonly worker: Worker
  readonly port: MessagePort
  readonly wake: Wake
}

type Waiting = {
  readonly resolve: (stats: TunnelStats | undefined) => void
  readonly reject: (error: NsmError) => void
}

/**
 * The main thread's end of one packet worker. The worker blocks in poll and gets no message there, so each request also
 * writes its eventfd. Worker -> main needs none: the main thread has an event loop.
 */
export class WorkerControl {
  /** Resolves when the worker ended although nobody closed it. */
  readonly failed: Promise<NsmError>
  /** Resolves when packets can flow; rejects when the worker could not start. */
  readonly ready: Promise<void>
  /** Takes raw IP packets to a hub's own services. */
  onLocal: ((packet: Uint8Array) => void) | undefined
  readonly #parts: ControlParts
  readonly #waiting = new Map<number, Waiting>()
  readonly #ended: Promise<void>
  #nextId = 1
  #closing = false
  #failure: NsmError | undefined

  constructor(parts: ControlParts) {
    this.#parts = parts
    const ready = Promise.withResolvers<void>()
    const failed = Promise.withResolvers<NsmError>()
    const ended = Promise.withResolvers<void>()
    this.ready = ready.promise
    this.failed = failed.promise
    this.#ended = ended.promise
    parts.port.on('message', (message: WorkerMessage) => {
      if (message.kind === 'ready') ready.resolve()
      else this.#receive(message)
    })
    parts.worker.once('error', (error) => {
      this.#failure ??= workerLost(error)
    })
    const exited = new Promise<void>((resolve) => parts.worker.once('exit', () => resolve()))
    // The port closes behind its last message, which may say why the thread ended.
    const drained = new Promise<void>((resolve) => parts.port.once('close', resolve))
    void Promise.all([exited, drained]).then(() => {
      this.#end()
      if (!this.#closing) failed.resolve(this.#failure ?? workerLost())
      ready.reject(this.#failure ?? workerLost())
      ended.resolve()
    })
    ready.promise.catch(() => {})
    wakeAtExit.add(parts.wake)
  }

  /** Lets a thread that was booted run; `ready` resolves when it does. A thread that runs keeps the process alive. */
  start(start: WorkerStart): Promise<void> {
    this.#parts.worker.ref()
    this.#parts.port.ref()
    this.#parts.port.postMessage(start)
    return this.ready
  }

  /** Sends a request and waits for its answer; an abort rejects with the signal's reason. */
  async ask(request: Request, signal?: AbortSignal): Promise<TunnelStats | undefined> {
    signal?.throwIfAborted()
    const { id, answer } = this.#post(request)
    if (!signal) return answer
    const aborted = Promise.withResolvers<never>()
    const onAbort = () => {
      this.#waiting.delete(id)
      this.tell({ kind: 'cancel', requestId: id })
      aborted.reject(signal.reason)
    }
    signal.addEventListener('abort', onAbort, { once: true })
    return Promise.race([answer, aborted.promise]).finally(() => signal.removeEventListener('abort', onAbort))
  }

  /** Sends a request without waiting for the answer. */
  tell(request: Request): void {
    const { answer } = this.#post(request)
    answer.catch(() => {})
  }

  /** Ends the worker and waits for it. */
  async close(): Promise<void> {
    if (!this.#closing) {
      this.#closing = true
      this.tell({ kind: 'close' })
    }
    await this.#ended
  }

  #post(request: Request): { readonly id: number; readonly answer: Promise<TunnelStats | undefined> } {
    const id = this.#nextId++
    const { promise, resolve, reject } = Promise.withResolvers<TunnelStats | undefined>()
    if (this.#failure) reject(this.#failure)
    else {
      this.#waiting.set(id, { resolve, reject })
      const numbered: NumberedRequest = { id, request }
      this.#parts.port.postMessage(numbered)
      this.#parts.wake.wake()
    }
    return { id, answer: promise }
  }

  #receive(message: Exclude<WorkerMessage, { kind: 'ready' }>): void {
    if (message.kind === 'local') this.onLocal?.(message.packet)
    else if (message.kind === 'failed') this.#failure = errorFromData(message.error)
    else this.#answer(message)
  }

  #answer(message: Extract<WorkerMessage, { kind: 'answer' }>): void {
    const waiting = this.#waiting.get(message.id)
    this.#waiting.delete(message.id)
    if (message.error) waiting?.reject(errorFromData(message.error))
    else waiting?.resolve(message.stats)
  }

  /** After the thread's end nothing answers any more. */
  #end(): void {
    wakeAtExit.delete(this.#parts.wake)
    if (!this.#closing) this.#failure ??= workerLost()
    const error = this.#failure ?? new NsmError('NOT_READY', 'the tunnel is closed', 'connect again')
    this.#failure = error
    for (const { reject } of this.#waiting.values()) reject(error)
    this.#waiting.clear()
  }
}

function workerLost(cause?: unknown): NsmError {
  const why = cause === undefined ? '' : `: ${toNsmError(cause).message}`
  return new NsmError('LOST', `the packet worker ended${why}`, 'connect again', { cause })
}

/** A thread that waits in poll would hold up the end of the process. */
const wakeAtExit = new Set<Wake>()
process.once('exit', () => {
  for (const wake of wakeAtExit) wake.wake()
})
