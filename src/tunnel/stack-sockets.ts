import type { Clock } from '../base/clock.ts'
import type { Pump } from './pump.ts'
import { datagramWindow, type StackCommand, type StackNews, streamWindowBytes } from './stack-messages.ts'
import { type SocketEvent, socketNews, type WireGuardEngine } from './wireguard/engine.ts'

/** What the worker's sockets act on. */
export interface StackSocketsParts {
  readonly engine: Pick<WireGuardEngine, 'stack'>
  readonly pump: Pick<Pump, 'deliver'>
  readonly clock: Clock
  /** The buffers of `news` are the receiver's from here on. */
  readonly say: (socket: number, news: StackNews) => void
}

/** A socket of the main thread, here. */
interface Socket {
  readonly number: number
  /** The engine's. */
  readonly id: number
  readonly kind: 'stream' | 'datagrams'
  /** Written and not taken by the stack. */
  readonly queue: Uint8Array[]
  /** Given to the main thread and not taken by it: bytes or datagrams. */
  given: number
  hasEnded: boolean
  endsAfterQueue: 'no' | 'end' | 'release'
}

/** The worker's side of the sockets: moves bytes between the engine's stack and the main thread. */
export class StackSockets {
  readonly #parts: StackSocketsParts
  readonly #byNumber = new Map<number, Socket>()
  readonly #byId = new Map<number, Socket>()
  #nextAccepted = -1

  constructor(parts: StackSocketsParts) {
    this.#parts = parts
  }

  /** Does what the main thread asks for; of a socket that is gone: nothing. */
  handle(command: StackCommand): void {
    switch (command.act) {
      case 'listen':
        return void this.#stack.listenTcp(command.port, command.listens)
      case 'connect':
        this.#open(command.socket, 'stream', this.#stack.connectTcp(command.to, this.#nowMs))
        return void this.#parts.pump.deliver()
      case 'udp':
        return void this.#openDatagrams(command.socket, this.#stack.openUdp(command.port))
      case 'echo':
        return void this.#openDatagrams(command.socket, this.#stack.openEcho())
      default: {
        const socket = this.#byNumber.get(command.socket)
        if (socket) this.#act(socket, command)
      }
    }
  }

  /** Tells what the engine's sockets say. */
  tell(events: readonly SocketEvent[]): void {
    for (const event of events) {
      const socket = this.#byId.get(event.socket) ?? this.#accept(event)
      if (socket) this.#tell(socket, event.news)
    }
  }

  get #stack() {
    return this.#parts.engine.stack
  }

  get #nowMs(): number {
    return this.#parts.clock.monotonicMs()
  }

  #act(socket: Socket, command: Exclude<StackCommand, { act: 'listen' | 'connect' | 'udp' | 'echo' }>): void {
    switch (command.act) {
      case 'write':
        socket.queue.push(command.bytes)
        return void this.#write(socket)
      case 'taken':
        socket.given -= command.count
        return void this.#read(socket)
      case 'send':
        this.#stack.sendTo(socket.id, { ...command.to, bytes: command.bytes }, this.#nowMs)
        return void this.#parts.pump.deliver()
      case 'end':
        socket.endsAfterQueue = 'end'
        return void this.#write(socket)
      case 'release':
        return void this.#release(socket, command.breaks)
    }
  }

  #open(number: number, kind: Socket['kind'], id: number | undefined): void {
    if (id === undefined) this.#parts.say(number, { news: 'refused' })
    else this.#add(number, kind, id)
  }

  #openDatagrams(number: number, id: number | undefined): void {
    this.#open(number, 'datagrams', id)
    if (id !== undefined) this.#parts.say(number, { news: 'open', port: this.#stack.socketPort(id) })
  }

  #add(number: number, kind: Socket['kind'], id: number): Socket {
    const socket: Socket = { number, id, kind, queue: [], given: 0, hasEnded: false, endsAfterQueue: 'no' }
    this.#byNumber.set(number, socket)
    this.#byId.set(id, socket)
    return socket
  }

  #accept({ socket: id, news, port, remote }: SocketEvent): Socket | undefined {
    if ((news & socketNews.accepted) === 0 || !remote) return undefined
    const socket = this.#add(this.#nextAccepted--, 'stream', id)
    this.#parts.say(socket.number, { news: 'accepted', port, remote })
    return socket
  }

  #tell(socket: Socket, news: number): void {
    const { say } = this.#parts
    const is = (bit: number) => (news & bit) !== 0
    if (is(socketNews.connected)) say(socket.number, { news: 'connected' })
    if (is(socketNews.readable)) this.#read(socket)
    if (is(socketNews.writable)) this.#write(socket)
    if (is(socketNews.ended)) this.#ended(socket)
    if (is(socketNews.reset)) say(socket.number, { news: 'reset' })
    if (is(socketNews.lost)) say(socket.number, { news: 'lost' })
    // Whoever was to be told of the end has gone already.
    if (is(socketNews.reset | socketNews.lost | socketNews.closed) && socket.endsAfterQueue === 'release') {
      this.#forget(socket, true)
    }
  }

  #ended(socket: Socket): void {
    if (socket.hasEnded) return
    socket.hasEnded = true
    this.#parts.say(socket.number, { news: 'ended' })
  }

  /** Hands over what came, as long as the main thread takes it. */
  #read(socket: Socket): void {
    if (socket.kind === 'datagrams') return void this.#readDatagrams(socket)
    while (socket.given < streamWindowBytes && socket.endsAfterQueue !== 'release') {
      const bytes = this.#stack.receiveTcp(socket.id, streamWindowBytes - socket.given, this.#nowMs)
      if (bytes.length > 0) {
        socket.given += bytes.length
        this.#parts.say(socket.number, { news: 'data', bytes })
      }
      // Each call may have let the stack send, whatever it gave.
      this.#parts.pump.deliver()
      if (bytes.length === 0) return
    }
  }

  #readDatagrams(socket: Socket): void {
    while (socket.given < datagramWindow) {
      const datagram = this.#stack.receiveFrom(socket.id)
      if (!datagram) return
      const { address, port, bytes } = datagram
      socket.given++
      this.#parts.say(socket.number, { news: 'datagram', from: { address, port }, bytes })
    }
  }

  /** Gives the stack what it takes; behind the last byte comes the end, when it was asked for. */
  #write(socket: Socket): void {
    for (let chunk = socket.queue[0]; chunk; chunk = socket.queue[0]) {
      const count = this.#stack.sendTcp(socket.id, chunk, this.#nowMs)
      this.#parts.pump.deliver()
      // A connection that takes nothing any more says so by itself.
      if (!count) return
      this.#parts.say(socket.number, { news: 'wrote', count })
      if (count === chunk.length) socket.queue.shift()
      else socket.queue[0] = chunk.subarray(count)
    }
    if (socket.endsAfterQueue === 'end') {
      this.#stack.endTcp(socket.id, this.#nowMs)
      this.#parts.pump.deliver()
    } else if (socket.endsAfterQueue === 'release') {
      this.#forget(socket, false)
    }
  }

  #release(socket: Socket, breaks: boolean): void {
    if (breaks || socket.queue.length === 0) return void this.#forget(socket, breaks)
    socket.endsAfterQueue = 'release'
  }

  #forget(socket: Socket, breaks: boolean): void {
    this.#byNumber.delete(socket.number)
    this.#byId.delete(socket.id)
    this.#stack.release(socket.id, breaks, this.#nowMs)
    this.#parts.pump.deliver()
  }
}
