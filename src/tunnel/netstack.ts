import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { formatAddress, parseAddress } from '../base/ip.ts'
import type { WorkerControl } from './control.ts'
import { datagramWindow, type StackCommand, type StackNews } from './stack-messages.ts'
import { TcpStream } from './tcp-stream.ts'
import type { SocketAddress } from './wireguard/sockaddr.ts'

export type { TcpStream } from './tcp-stream.ts'

/** TCP, UDP and ping through a tunnel, from this process alone: no interface, no route, no right is needed. */
export interface Netstack {
  /** Resolves when the connection is open; `UNREACHABLE` when it is refused or nobody answers in 15 s. */
  connect(to: SocketAddress, signal?: AbortSignal): Promise<TcpStream>
  /** Takes connections to a port of the tunnel's addresses from when it resolves on; `CONFLICT` when it is taken. */
  listen(port: number, onConnection: (stream: TcpStream) => void): Promise<StackListener>
  /** A socket for datagrams; port 0 = any free one. `CONFLICT` when the port is taken or there are too many sockets. */
  openUdp(port: number, onDatagram: (payload: Uint8Array, from: SocketAddress) => void): Promise<StackUdp>
  /**
   * Sends an echo request and gives the milliseconds until its answer; waits as long as the signal says. `UNREACHABLE` without
   * an own address of the family.
   */
  ping(address: string, signal: AbortSignal): Promise<number>
}

/** A port that is listened to. */
export interface StackListener {
  /** Takes no more connections; those that are there stay. */
  close(): void
}

/** An open socket for datagrams. */
export interface StackUdp {
  readonly port: number
  /**
   * Lost on the way like any datagram; one that is larger than the tunnel's packets goes in parts. Throws `USAGE` for more than
   * a datagram can hold, `UNREACHABLE` without an own address of the family.
   */
  send(payload: Uint8Array, to: SocketAddress): void
  close(): void
}

/** Ours: as browsers have it, some; a handshake that was lost is repeated after 1, 3 and 7 s. */
const connectTimeoutMs = 15_000
/** [RFC 768] What an IPv4 packet has room for; the same in IPv6. */
const datagramMaxBytes = 65_507

/** What a netstack is made from. */
export interface NetstackParts {
  readonly control: Pick<WorkerControl, 'ask' | 'tell' | 'over' | 'onStack'>
  /** Own addresses. */
  readonly addresses: readonly string[]
  readonly clock: Clock
}

type Listener = (news: StackNews) => void

/** The main thread's side of the engine's TCP/IP stack. When the tunnel ends, every socket ends with its error. */
export function createNetstack(parts: NetstackParts): Netstack {
  return new ThreadNetstack(parts)
}

class ThreadNetstack implements Netstack {
  readonly #parts: NetstackParts
  readonly #hear = new Map<number, Listener>()
  readonly #fail = new Map<number, (error: NsmError) => void>()
  readonly #listening = new Map<number, (stream: TcpStream) => void>()
  #next = 1
  #over: NsmError | undefined

  constructor(parts: NetstackParts) {
    this.#parts = parts
    parts.control.onStack = (socket, news) => this.#receive(socket, news)
    void parts.control.over.then((error) => {
      this.#over = error
      for (const fail of this.#fail.values()) fail(error)
    })
  }

  async connect(to: SocketAddress, signal?: AbortSignal): Promise<TcpStream> {
    signal?.throwIfAborted()
    this.#checkTarget(to)
    const socket = this.#number()
    const stream = this.#stream(socket, to, 0)
    const opened = Promise.withResolvers<void>()
    stream.once('connect', opened.resolve)
    stream.once('error', opened.reject)
    const onAbort = () => stream.destroy(toError(signal?.reason))
    signal?.addEventListener('abort', onAbort, { once: true })
    const cancel = this.#parts.clock.after(connectTimeoutMs, () => stream.hear({ news: 'lost' }))
    this.#tell({ act: 'connect', socket, to })
    try {
      await opened.promise
      return stream
    } finally {
      cancel()
      signal?.removeEventListener('abort', onAbort)
      stream.off('error', opened.reject)
    }
  }

  async listen(port: number, onConnection: (stream: TcpStream) => void): Promise<StackListener> {
    checkPort(port)
    if (this.#listening.has(port)) throw taken(port)
    this.#listening.set(port, onConnection)
    const close = () => {
      if (this.#listening.get(port) !== onConnection) return
      this.#listening.delete(port)
      this.#tell({ act: 'listen', port, listens: false })
    }
    try {
      await this.#parts.control.ask({ kind: 'stack', command: { act: 'listen', port, listens: true } })
      return { close }
    } catch (error) {
      close()
      throw error
    }
  }

  async openUdp(port: number, onDatagram: (payload: Uint8Array, from: SocketAddress) => void): Promise<StackUdp> {
    if (port !== 0) checkPort(port)
    const socket = await this.#openDatagrams('udp', port, onDatagram)
    return {
      port: socket.port,
      send: (payload, to) => {
        this.#checkTarget(to)
        if (payload.length > datagramMaxBytes) {
          const text = `${payload.length} bytes are too many for a datagram`
          throw new NsmError('USAGE', text, `send at most ${datagramMaxBytes}`)
        }
        socket.send(payload, to)
      },
      close: socket.close,
    }
  }

  async ping(address: string, signal: AbortSignal): Promise<number> {
    signal.throwIfAborted()
    const { clock } = this.#parts
    const to = { address, port: 1 }
    this.#checkTarget(to)
    const wanted = formatAddress(parseAddress(address))
    const answered = Promise.withResolvers<void>()
    const onAbort = () => answered.reject(signal.reason)
    const socket = await this.#openDatagrams('echo', 0, (_reply, from) => {
      if (from.address === wanted) answered.resolve()
    })
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      signal.throwIfAborted()
      const startedMs = clock.monotonicMs()
      socket.onFailure(answered.reject)
      socket.send(new Uint8Array(echoBytes), to)
      await answered.promise
      return clock.monotonicMs() - startedMs
    } finally {
      signal.removeEventListener('abort', onAbort)
      socket.close()
    }
  }

  /** A socket of one thread and its number here; what comes is given back at once, as it is handed on at once. */
  async #openDatagrams(
    act: 'udp' | 'echo',
    port: number,
    onDatagram: (payload: Uint8Array, from: SocketAddress) => void,
  ) {
    const socket = this.#number()
    const opened = Promise.withResolvers<number>()
    let untaken = 0
    this.#fail.set(socket, opened.reject)
    this.#hear.set(socket, (news) => {
      if (news.news === 'open') opened.resolve(news.port)
      if (news.news === 'refused') opened.reject(taken(port))
      if (news.news !== 'datagram') return
      onDatagram(news.bytes, news.from)
      if (++untaken < datagramWindow / 2) return
      this.#tell({ act: 'taken', socket, count: untaken })
      untaken = 0
    })
    this.#tell(act === 'udp' ? { act, socket, port } : { act, socket })
    const close = () => {
      if (this.#hear.delete(socket)) this.#tell({ act: 'release', socket, breaks: true })
      this.#fail.delete(socket)
    }
    const own = await opened.promise.catch((error) => {
      close()
      throw error
    })
    return {
      port: own,
      send: (bytes: Uint8Array, to: SocketAddress) =>
        this.#tell({ act: 'send', socket, to, bytes: Uint8Array.from(bytes) }),
      onFailure: (fail: (error: NsmError) => void) => void this.#fail.set(socket, fail),
      close,
    }
  }

  #receive(socket: number, news: StackNews): void {
    if (news.news !== 'accepted') return void this.#hear.get(socket)?.(news)
    const onConnection = this.#listening.get(news.port)
    const stream = this.#stream(socket, news.remote, news.port)
    stream.hear(news)
    // Whoever listened has gone while the connection came.
    if (onConnection) onConnection(stream)
    else stream.destroy()
  }

  #stream(socket: number, remote: SocketAddress, localPort: number): TcpStream {
    const onClose = () => {
      this.#hear.delete(socket)
      this.#fail.delete(socket)
    }
    const stream = new TcpStream({ socket, remote, localPort, onClose, tell: (command) => this.#tell(command) })
    this.#hear.set(socket, (news) => stream.hear(news))
    this.#fail.set(socket, (error) => stream.destroy(error))
    return stream
  }

  /** Throws `USAGE` for what is no address or no port, as the other thread trusts what it is given, and `UNREACHABLE`. */
  #checkTarget({ address, port }: SocketAddress): void {
    const { family } = parseAddress(address)
    checkPort(port)
    if (this.#parts.addresses.some((own) => own.includes(':') === (family === 6))) return
    const text = `${address} cannot be reached: the tunnel has no IPv${family} address`
    throw new NsmError('UNREACHABLE', text, `give the tunnel an IPv${family} address`)
  }

  #number(): number {
    if (this.#over) throw this.#over
    return this.#next++
  }

  #tell(command: StackCommand): void {
    this.#parts.control.tell({ kind: 'stack', command })
  }
}

/** Ours: as ping(8) sends. */
const echoBytes = 56

function checkPort(port: number): void {
  if (Number.isInteger(port) && port > 0 && port <= portMax) return
  throw new NsmError('USAGE', `${port} is no port`, `give one from 1 to ${portMax}`)
}

/** [RFC 9293 3.1] 16 bits. */
const portMax = 65_535

function taken(port: number): NsmError {
  const what = port === 0 ? 'there are too many open sockets' : `port ${port} of the tunnel is taken`
  return new NsmError('CONFLICT', what, 'close another one first')
}

function toError(reason: unknown): Error {
  return reason instanceof Error ? reason : new NsmError('LOST', 'the connection was given up', 'connect again')
}
