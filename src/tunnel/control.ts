import type { MessagePort, Worker } from 'node:worker_threads'
import type { Clock } from '../base/clock.ts'
import { type ErrorData, errorFromData, NsmError, toNsmError } from '../base/errors.ts'
import type { StackCommand, StackNews } from './stack-messages.ts'
import type { ThreadBoot } from './thread-boot.ts'
import type { TunHandle } from './tun/linux-device.ts'
import type { Wake } from './tun/linux-wake.ts'
import type { TunnelStats } from './tunnel-stats.ts'
import type { EngineKind, PeerSettings } from './wireguard/engine.ts'

/** The engine's own cipher, or its loops made for 256-bit vectors. */
export type Cipher = 'plain' | 'wide'

/** What the packet worker's thread boots with, before anybody knows what for. */
export interface WorkerBoot {
  readonly module: WebAssembly.Module
  readonly wakeFd: number
  readonly port: MessagePort
  /** Of its `ThreadBoot`. */
  readonly bootWords: Int32Array<SharedArrayBuffer>
  /** Which cipher an earlier worker of this process found right; undefined when none has looked. */
  readonly cipher: Cipher | undefined
}

/** The first message: what for. Descriptors belong to the process, so their numbers are enough. */
export interface WorkerStart {
  readonly kind: EngineKind
  readonly privateKey: Uint8Array
  readonly mtuBytes?: number
  /** One number in shared memory, which grows when packets of peers came in. */
  readonly heard?: Int32Array
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
  | { readonly kind: 'stack'; readonly command: StackCommand }
  | { readonly kind: 'setMtu'; readonly mtuBytes: number }
  | { readonly kind: 'stats' }
  | { readonly kind: 'close' }

/** A request with the number its answer carries. */
export interface NumberedRequest {
  readonly id: number
  readonly request: Request
}

/** What the packet worker says. */
export type WorkerMessage =
  | { readonly kind: 'ready'; readonly cipher: Cipher }
  | { readonly kind: 'answer'; readonly id: number; readonly stats?: TunnelStats; readonly error?: ErrorData }
  | { readonly kind: 'local'; readonly packet: Uint8Array }
  | { readonly kind: 'stack'; readonly socket: number; readonly news: StackNews }
  | { readonly kind: 'failed'; readonly error: ErrorData }

/** The parts a control talks through. */
export interface ControlParts {
  readonly worker: Worker
  readonly port: MessagePort
  readonly wake: Wake
  readonly boot: ThreadBoot
  readonly clock: Clock
}

/** Ours: a thread boots in 0.2 s on an idle machine; one that takes longer than this never will. */
export const startLimitMs = 30_000
/** Ours: answers take under a millisecond; a thread that is silent for so long is stuck. */
export const answerLimitMs = 5_000
/** Ours: what a thread gets to end by itself, which takes it a millisecond unless it hangs, and then what it gets to be ended. */
export const politeEndMs = 3_000
export const forcedEndMs = 1_000

type Waiting = {
  readonly resolve: (stats: TunnelStats | undefined) => void
  readonly reject: (error: unknown) => void
}

/**
 * The main thread's end of one packet worker. The worker blocks in poll and gets no message there, so each request also
 * writes its eventfd. Worker -> main needs none: the main thread has an event loop. Nothing here waits without a limit
 * for a thread that hangs.
 */
export class WorkerControl {
  /** Resolves when the worker ended although nobody closed it. */
  readonly failed: Promise<NsmError>
  /** Resolves with why nothing answers any more, also after `close`. */
  readonly over: Promise<NsmError>
  /** Resolves when packets can flow; rejects when the worker could not start. */
  readonly ready: Promise<Cipher>
  /** Takes raw IP packets to a hub's own services. */
  onLocal: ((packet: Uint8Array) => void) | undefined
  /** Takes what sockets of the engine's stack say. */
  onStack: ((socket: number, news: StackNews) => void) | undefined
  readonly #parts: ControlParts
  readonly #waiting = new Map<number, Waiting>()
  readonly #ready = Promise.withResolvers<Cipher>()
  readonly #failed = Promise.withResolvers<NsmError>()
  readonly #over = Promise.withResolvers<NsmError>()
  readonly #ended = Promise.withResolvers<void>()
  #nextId = 1
  #closing = false
  #wakes = false
  #failure: NsmError | undefined

  constructor(parts: ControlParts) {
    this.#parts = parts
    this.ready = this.#ready.promise
    this.failed = this.#failed.promise
    this.over = this.#over.promise
    this.ready.catch(() => {})
    parts.port.on('message', (message: WorkerMessage) => this.#receive(message))
    parts.worker.once('error', (error) => {
      this.#failure ??= workerLost(error)
    })
    const exited = new Promise<void>((resolve) => parts.worker.once('exit', () => resolve()))
    // The port closes behind its last message, which may say why the thread ended.
    const drained = new Promise<void>((resolve) => parts.port.once('close', resolve))
    void Promise.all([exited, drained]).then(() => this.#end())
    alive.add(parts)
  }

  /** True when the thread is gone. */
  get ended(): boolean {
    return this.#failure !== undefined
  }

  /** Lets a thread that was booted run; resolves when packets can flow. A thread that runs keeps the process alive. */
  async start(start: WorkerStart, signal?: AbortSignal): Promise<void> {
    this.#parts.worker.ref()
    this.#parts.port.ref()
    this.#parts.port.postMessage(start)
    const stop = Promise.withResolvers<never>()
    const onAbort = () => stop.reject(signal?.reason)
    const cancel = this.#parts.clock.after(startLimitMs, () => {
      stop.reject(new NsmError('LOST', `the packet worker did not start in ${startLimitMs / 1_000} s`, 'try again'))
    })
    signal?.addEventListener('abort', onAbort, { once: true })
    await Promise.race([this.ready, stop.promise]).finally(() => {
      cancel()
      signal?.removeEventListener('abort', onAbort)
    })
  }

  /**
   * Sends a request and waits for its answer; an abort rejects with the signal's reason. Throws `LOST` when the thread
   * is gone or silent. A handshake waits for the peer, so it alone has no limit but the signal.
   */
  async ask(request: Request, signal?: AbortSignal): Promise<TunnelStats | undefined> {
    signal?.throwIfAborted()
    if (this.#failure) throw this.#failure
    const { promise, resolve, reject } = Promise.withResolvers<TunnelStats | undefined>()
    const id = this.#post(request)
    this.#waiting.set(id, { resolve, reject })
    const silent = () => reject(new NsmError('LOST', 'the packet worker does not answer', 'connect again'))
    const cancel = request.kind === 'handshake' ? undefined : this.#parts.clock.after(answerLimitMs, silent)
    const onAbort = () => {
      this.tell({ kind: 'cancel', requestId: id })
      reject(signal?.reason)
    }
    signal?.addEventListener('abort', onAbort, { once: true })
    return promise.finally(() => {
      this.#waiting.delete(id)
      cancel?.()
      signal?.removeEventListener('abort', onAbort)
    })
  }

  /** Sends a request whose answer nobody waits for. */
  tell(request: Request): void {
    if (!this.#failure) this.#post(request)
  }

  /** Ends the worker and waits for it, a bounded time; by force when it hangs, but never while it loads. */
  async close(): Promise<void> {
    if (!this.#closing) {
      this.#closing = true
      const { clock, boot, worker } = this.#parts
      boot.dismiss()
      this.tell({ kind: 'close' })
      let cancel = clock.after(politeEndMs, () => {
        cancel = clock.after(forcedEndMs, () => this.#abandon())
        if (boot.isLoaded) void worker.terminate()
      })
      void this.#ended.promise.then(() => cancel())
    }
    await this.#ended.promise
  }

  #post(request: Request): number {
    const id = this.#nextId++
    const numbered: NumberedRequest = { id, request }
    this.#parts.port.postMessage(numbered)
    this.#wakeOnce()
    return id
  }

  /** Requests of one turn of the event loop share a wake: with the switch of threads it costs more than they do. */
  #wakeOnce(): void {
    if (this.#wakes) return
    this.#wakes = true
    setImmediate(() => {
      this.#wakes = false
      this.#parts.wake.wake()
    })
  }

  #receive(message: WorkerMessage): void {
    if (message.kind === 'ready') this.#ready.resolve(message.cipher)
    else if (message.kind === 'local') this.onLocal?.(message.packet)
    else if (message.kind === 'stack') this.onStack?.(message.socket, message.news)
    else if (message.kind === 'failed') this.#failure = errorFromData(message.error)
    else this.#answer(message)
  }

  #answer(message: Extract<WorkerMessage, { kind: 'answer' }>): void {
    const waiting = this.#waiting.get(message.id)
    if (message.error) waiting?.reject(errorFromData(message.error))
    else waiting?.resolve(message.stats)
  }

  /** A thread that cannot be ended, as one that only collects garbage, must not keep the process alive. */
  #abandon(): void {
    this.#parts.worker.unref()
    this.#parts.port.close()
    this.#end()
  }

  /** After the thread's end nothing answers any more. */
  #end(): void {
    alive.delete(this.#parts)
    this.#failure ??= this.#closing ? new NsmError('NOT_READY', 'the tunnel is closed', 'connect again') : workerLost()
    if (!this.#closing) this.#failed.resolve(this.#failure)
    this.#over.resolve(this.#failure)
    this.#ready.reject(this.#failure)
    for (const { reject } of this.#waiting.values()) reject(this.#failure)
    this.#ended.resolve()
  }
}

function workerLost(cause?: unknown): NsmError {
  const why = cause === undefined ? '' : `: ${toNsmError(cause).message}`
  return new NsmError('LOST', `the packet worker ended${why}`, 'connect again', { cause })
}

/** A thread that waits in poll would hold up the end of the process, and one that loads must not be cut off. */
const alive = new Set<Pick<ControlParts, 'wake' | 'boot'>>()
process.once('exit', () => {
  for (const { wake } of alive) wake.wake()
  for (const { boot } of alive) boot.waitUntilLoaded(startLimitMs)
})
