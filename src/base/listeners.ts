/** Whoever wants to be told of something. */
export interface Listeners<T extends readonly unknown[]> {
  /** Calls the listener at each `tell` from now on; the result ends that. */
  add(listener: (...news: T) => void): () => void
  /** Calls those who listen at this moment, also when one of them throws; throws what the first of them threw. */
  tell(...news: T): void
  clear(): void
}

/** Nobody listens yet. */
export function createListeners<T extends readonly unknown[] = []>(): Listeners<T> {
  const listeners = new Set<(...news: T) => void>()
  return {
    add(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    tell(...news) {
      const failures: unknown[] = []
      for (const listener of [...listeners]) {
        try {
          listener(...news)
        } catch (error) {
          failures.push(error)
        }
      }
      if (failures.length > 0) throw failures[0]
    },
    clear: () => listeners.clear(),
  }
}
