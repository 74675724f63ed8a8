import type { GrpcCall } from './grpc-call.ts'

/** Ours: requests that wait for their handler before the caller is held up; one window of its stream may bring more. */
const waitingMax = 16
/** Ours: what a request that waits counts besides its bytes: one without any is there all the same. */
const waitingOverheadBytes = 128

/**
 * The requests of a call as they come, for one reader; a reader that is slow holds its caller up. They wait as bytes,
 * and are read one by one: `decode` gives nothing for a message that ended the call. Ends when the caller has said its
 * last; throws the reason of the call's signal when it goes away before.
 */
export function readRequests<T>(call: GrpcCall, decode: (message: Buffer) => T | undefined): AsyncGenerator<T, void> {
  const waiting: Buffer[] = []
  let keptBytes = 0
  let isEnded = false
  let wake = () => {}
  call.signal.addEventListener('abort', () => wake(), { once: true })
  call.read({
    get keptBytes() {
      return keptBytes
    },
    onMessage(message) {
      waiting.push(Buffer.from(message))
      keptBytes += message.length + waitingOverheadBytes
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
      if (next) {
        keptBytes -= next.length + waitingOverheadBytes
        const request = decode(next)
        if (request !== undefined) yield request
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
