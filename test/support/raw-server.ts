import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { FrameReader, flags, frame, frameTypes, settingsPayload } from '../../src/nsm/http2/frames.ts'
import { HeaderDecoder } from '../../src/nsm/http2/hpack.ts'

/* An HTTP/2 server without TLS that sends the frames it is told, at the moment it is told. */

/** A frame of a client, its own copy. */
export interface SeenFrame {
  readonly type: number
  readonly flags: number
  readonly streamId: number
  readonly payload: Buffer
  /** Of HEADERS: names, each followed by its value. */
  readonly fields: readonly string[]
}

/** One connection of a client. */
export interface RawConnection {
  readonly socket: Socket
  say(...frames: Buffer[]): void
  /** The next frame of this type that was not asked for yet. */
  next(type: number): Promise<SeenFrame>
  /** Frames so far that were not asked for. */
  readonly seen: SeenFrame[]
}

/** A running server. */
export interface RawServer {
  readonly port: number
  /** The next connection that was not asked for yet. */
  next(): Promise<RawConnection>
  /** Of all connections so far. */
  readonly count: number
  close(): Promise<void>
}

/** What a server says first. */
export const greeting = (settings: readonly (readonly [number, number])[] = []) =>
  frame({ type: frameTypes.settings, flags: 0, streamId: 0 }, settingsPayload(settings))

/** Listens on the loopback, on a port of its own or this one; greets each client with these settings, or not at all. */
export async function startRawServer({
  settings = [],
  port = 0,
}: {
  readonly settings?: readonly (readonly [number, number])[] | 'silent'
  readonly port?: number
} = {}): Promise<RawServer> {
  const connections: RawConnection[] = []
  const waiting = createWaiting<RawConnection>()
  const server = createServer((socket) => {
    socket.on('error', () => {})
    const connection = followFrames(socket)
    connections.push(connection)
    if (settings !== 'silent') connection.say(greeting(settings))
    waiting.add(connection)
  })
  await once(server.listen(port, '127.0.0.1'), 'listening')
  const bound = server.address()
  return {
    port: typeof bound === 'object' && bound ? bound.port : 0,
    next: () => waiting.next(() => true),
    get count() {
      return connections.length
    },
    async close() {
      for (const { socket } of connections) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}

function followFrames(socket: Socket): RawConnection {
  const reader = new FrameReader('client')
  const decoder = new HeaderDecoder(1_000_000)
  const waiting = createWaiting<SeenFrame>()
  socket.on('data', (piece) => {
    reader.push(piece, ({ payload, ...head }) => {
      const fields = head.type === frameTypes.headers ? (decoder.decode(payload)?.fields ?? []) : []
      waiting.add({ ...head, payload: Buffer.from(payload), fields })
    })
  })
  return {
    socket,
    say: (...frames) => void socket.write(Buffer.concat(frames)),
    next: (type) =>
      waiting.next((one) => one.type === type && (type !== frameTypes.settings || !(one.flags & flags.ack))),
    seen: waiting.present,
  }
}

function createWaiting<T>() {
  const present: T[] = []
  const askers: { readonly fits: (one: T) => boolean; readonly resolve: (one: T) => void }[] = []
  return {
    present,
    add(one: T) {
      const at = askers.findIndex(({ fits }) => fits(one))
      if (at >= 0) askers.splice(at, 1)[0]?.resolve(one)
      else present.push(one)
    },
    next(fits: (one: T) => boolean): Promise<T> {
      const at = present.findIndex(fits)
      const [found] = at >= 0 ? present.splice(at, 1) : []
      return found === undefined ? new Promise((resolve) => askers.push({ fits, resolve })) : Promise.resolve(found)
    },
  }
}
