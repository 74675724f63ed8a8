import { NsmError } from '../base/errors.ts'

/** Events of one watcher between the one who makes them and the stream that sends them. */
export interface EventQueue<T> {
  /** Adds an event; a watcher that does not read loses its stream when the queue is full. */
  push(event: T): void
  /** Ends the stream after what is queued; with an error, the reader gets it. */
  end(error?: NsmError): void
  /** For one reader. */
  readonly events: AsyncIterable<T>
}

/** Ours: a watcher this far behind starts again with a fresh picture. */
const queuedMax = 1_024

/** A bounded queue that starts with `present` and ends with the signal; `onEnd` is called once, whatever ended it. */
export function createEventQueue<T>(
  present: readonly T[],
  ending: { readonly signal: AbortSignal; readonly onEnd: () => void },
): EventQueue<T> {
  const { signal, onEnd } = ending
  const queued = [...present]
  const fullAt = queued.length + queuedMax
  let ended: { readonly error: NsmError | undefined } | undefined
  let wake = () => {}
  const end = (error?: NsmError) => {
    if (ended) return
    ended = { error }
    signal.removeEventListener('abort', onAbort)
    onEnd()
    wake()
  }
  const onAbort = () => end()
  const woken = () =>
    new Promise<void>((resolve) => {
      wake = resolve
    })
  async function* events(): AsyncGenerator<T, void> {
    try {
      for (;;) {
        const next = queued.shift()
        if (next !== undefined) yield next
        else if (ended?.error) throw ended.error
        else if (ended) return
        else await woken()
      }
    } finally {
      end()
    }
  }
  if (signal.aborted) end()
  else signal.addEventListener('abort', onAbort, { once: true })
  return {
    push(event) {
      if (ended) return
      if (queued.length >= fullAt) end(new NsmError('UNREACHABLE', 'the watcher does not keep up', 'watch again'))
      else queued.push(event)
      wake()
    },
    end,
    events: events(),
  }
}
