/** Works that must not overlap, by what they are about. */
export interface Turns {
  /** Runs works of one key one after the other, in the order of the calls; gives the work's own outcome. */
  run<T>(key: string, work: () => Promise<T>): Promise<T>
  /** Keys with a work that runs or waits. */
  keys(): readonly string[]
  /** Resolves when the works of all keys so far have ended, whatever their outcome. */
  settled(): Promise<void>
}

/** Turns that nobody has taken yet; a key is forgotten with its last work. */
export function createTurns(): Turns {
  const last = new Map<string, Promise<unknown>>()
  return {
    async run(key, work) {
      const before = last.get(key)
      const turn = before ? before.then(work, work) : work()
      last.set(key, turn)
      try {
        return await turn
      } finally {
        if (last.get(key) === turn) last.delete(key)
      }
    },
    keys: () => [...last.keys()],
    settled: async () => void (await Promise.allSettled(last.values())),
  }
}
