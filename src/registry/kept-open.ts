import type { Clock } from '../base/clock.ts'
import type { NsmError } from '../base/errors.ts'

/** Ours: what nobody uses is closed after this; the next use opens it again. */
const idleMaxMs = 60_000

/** How things of one kind are kept. */
export interface KeptOpenSettings<T> {
  readonly clock: Clock
  /** At the same time; beyond it one that nobody uses makes room. */
  readonly most: number
  /** Those in use that one asker had opened: it does not take the places of all others. */
  readonly mostEach?: number
  /** What is thrown when all are in use. */
  readonly full: () => NsmError
  readonly close: (thing: T) => void
}

interface Kept<T> {
  readonly thing: T
  readonly asker: string
  uses: number
  cancelIdle: () => void
}

/** Things that are opened when needed, shared by key while they are used, and closed when nobody uses them any more. */
export class KeptOpen<T> {
  readonly #settings: KeptOpenSettings<T>
  readonly #kept = new Map<string, Kept<T>>()

  constructor(settings: KeptOpenSettings<T>) {
    this.#settings = settings
  }

  /** Borrows the thing of a key, opened for this asker if there is none; `done` gives it back. */
  use(key: string, open: () => T, asker = ''): { readonly thing: T; readonly done: () => void } {
    const kept = this.#kept.get(key) ?? this.#open(key, { open, asker })
    kept.cancelIdle()
    kept.uses++
    const done = () => {
      kept.uses--
      if (kept.uses > 0 || this.#kept.get(key) !== kept) return
      kept.cancelIdle = this.#settings.clock.after(idleMaxMs, () => this.#close(key, kept))
    }
    return { thing: kept.thing, done }
  }

  /** Forgets a thing that is of no use, without closing it. */
  drop(key: string, thing: T): void {
    const kept = this.#kept.get(key)
    if (kept?.thing !== thing) return
    kept.cancelIdle()
    this.#kept.delete(key)
  }

  /** Closes all, also what is in use. */
  close(): void {
    for (const [key, kept] of [...this.#kept]) this.#close(key, kept)
  }

  #open(key: string, { open, asker }: { readonly open: () => T; readonly asker: string }): Kept<T> {
    const { mostEach = Number.POSITIVE_INFINITY, full } = this.#settings
    const own = [...this.#kept.values()].filter((kept) => kept.asker === asker && kept.uses > 0)
    if (own.length >= mostEach) throw full()
    if (this.#kept.size >= this.#settings.most) this.#makeRoom()
    const kept = { thing: open(), asker, uses: 0, cancelIdle() {} }
    this.#kept.set(key, kept)
    return kept
  }

  #makeRoom(): void {
    const unused = [...this.#kept].find(([, { uses }]) => uses === 0)
    if (!unused) throw this.#settings.full()
    this.#close(...unused)
  }

  #close(key: string, kept: Kept<T>): void {
    kept.cancelIdle()
    this.#kept.delete(key)
    this.#settings.close(kept.thing)
  }
}
