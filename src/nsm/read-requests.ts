import type { GrpcCall } from './grpc-call.ts'

/** Ours: requests that wait for their handler before the caller is held up; one piece of its stream may bring more. */
const waitingMax = 16

/**
 * The requests of a call as they come, for one reader; a reader that is slow holds its caller up. Ends when the caller
 * has said its last; throws the reason of the call's signal when it goes away before. `decode` gives nothing for a
 * message that ended the call.
 */
export function readRequests<T>(call: GrpcCall, decode: (message: Buffer) => T | undefined): AsyncGenerator<T, void> {
  const waiting: T[] = []
  let isEnded = false
  let wake = () => {}
  call.signal.addEventListener('abort', () => wake(), { once: true })
  call.read({
    onMessage(message) {
      const request = decode(message)
      if (request !== undefined) waiting.push(request)
      wake()
      return waiting.length < waitingMax
    },
    onEnd() {
      isEnded = true
      wake()
    },
  })
  async function* requests(): AsyncGenerator<T, void> {
    for (;;) {
      const next = waiting.shift()
      if (next !== undefined) {
        yield next
        if (waiting.length === 0) call.resume()
      } else if (isEnded) return
      else {
        call.signal.throwIfAborted()
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    }
  }
  return requests()
}
