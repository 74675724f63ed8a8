import type { Socket } from 'node:net'
import type { Clock } from '../base/clock.ts'
import type { Session, SessionIo } from './http2/session.ts'
import type { Stream } from './http2/stream.ts'

/* How a session of HTTP/2 and its socket are tied together, at both ends of a connection. */

/** Ours: what was written last leaves within this, or never. */
const farewellMs = 1_000

/** What a session says into its socket; `cancel` when the socket is closed. */
export function outputOf(socket: Socket, clock: Clock): { readonly output: SessionIo; readonly cancel: () => void } {
  let cancel = () => {}
  return {
    output: {
      write: (bytes: Buffer) => socket.write(bytes),
      unsentBytes: () => socket.writableLength,
      end() {
        socket.destroySoon()
        cancel = clock.after(farewellMs, () => socket.destroy())
      },
    },
    cancel: () => cancel(),
  }
}

/** Gives a session what its socket receives. */
export function feed(session: Pick<Session<Stream>, 'drained' | 'receive'>, socket: Socket, clock: Clock): void {
  socket.setNoDelay(true)
  socket.on('drain', () => session.drained())
  socket.on('end', () => socket.destroy())
  socket.on('data', (piece) => session.receive(piece, clock.monotonicMs()))
}
