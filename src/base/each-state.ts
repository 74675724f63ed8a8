/** A state that changes, and who tells so. */
export interface Changing<T> {
  readonly current: () => T
  /** Calls the listener after each change; the result ends that. */
  readonly onChange: (listener: () => void) => () => void
  /** True for two states of which the second says nothing new. */
  readonly isSame: (told: T, next: T) => boolean
}

/**
 * The state at once and after each change, until the signal is aborted. Changes that come together are told as one: a reader
 * who is slow skips states, he never gets them late.
 */
export async function* eachState<T>(
  { current, onChange, isSame }: Changing<T>,
  signal: AbortSignal,
): AsyncGenerator<T, void> {
  let changed = Promise.withResolvers<void>()
  const wake = () => changed.resolve()
  const stop = onChange(wake)
  signal.addEventListener('abort', wake, { once: true })
  let told: { readonly state: T } | undefined
  try {
    while (!signal.aborted) {
      changed = Promise.withResolvers()
      const state = current()
      if (!told || !isSame(told.state, state)) yield state
      told = { state }
      await changed.promise
    }
  } finally {
    signal.removeEventListener('abort', wake)
    stop()
  }
}
