import type { Socket } from 'node:net'
import type { Clock } from '../base/clock.ts'

/** A connection that can be asked for an answer, and the time it lives in. */
interface Asked {
  readonly session: { ping(onPong: () => void): void }
  readonly socket: Socket
  readonly clock: Clock
}

/** How often to ask, and how long to wait for the answer, in milliseconds. */
interface Rhythm {
  readonly everyMs: number
  readonly timeoutMs: number
  /** False: not this time. */
  readonly isNeeded?: () => boolean
}

/** Asks the other side again and again, and ends a connection that does not answer; the result ends that. */
export function keepAlive(
  { session, socket, clock }: Asked,
  { everyMs, timeoutMs, isNeeded = () => true }: Rhythm,
): () => void {
  let isOver = false
  let cancel = () => {}
  const ping = () => {
    let isAnswered = false
    session.ping(() => {
      isAnswered = true
      cancel()
      if (!isOver) pingLater()
    })
    // Not before the loop has turned: after a machine was asleep, an answer may be there and not be read.
    setImmediate(() => {
      if (!isAnswered && !isOver) cancel = clock.after(timeoutMs, () => socket.destroy())
    })
  }
  const pingLater = () => {
    cancel = clock.after(everyMs, () => (isNeeded() ? ping() : pingLater()))
  }
  pingLater()
  return () => {
    isOver = true
    cancel()
  }
}
