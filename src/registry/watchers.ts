import { createEventQueue, type EventQueue } from '../nsm/event-queue.ts'
import type { View } from './view.ts'

/** A service or endpoint that a watcher asked for, or that it is gone. */
export interface Found<T> {
  readonly entry: T
  readonly deleted: boolean
}

/** What a watcher asks for, and what it sees of it. */
export interface Watching<T> {
  readonly query: T
  readonly view: View<T> | undefined
}

interface Watcher<T> extends Watching<T> {
  readonly matches: (seen: T) => boolean
  /** What it has seen last, by name; only where something may be hidden. */
  readonly shown: Map<string, T>
}

/** Who watches what; each watcher first gets the present picture, then each change that its query fits. */
export class Watchers<T extends { readonly name: string }> {
  readonly #matches: (query: T, entry: T) => boolean
  readonly #watching = new Map<EventQueue<Found<T>>, Watcher<T>>()

  constructor(matches: (query: T, entry: T) => boolean) {
    this.#matches = matches
  }

  watch({ query, view }: Watching<T>, present: readonly T[], signal: AbortSignal): AsyncIterable<Found<T>> {
    const matches = (seen: T) => this.#matches(query, seen)
    const watcher = { query, view, matches, shown: new Map<string, T>() }
    const events = present.flatMap((entry) => seenBy(watcher, { entry, deleted: false }) ?? [])
    const queue: EventQueue<Found<T>> = createEventQueue(events, {
      signal,
      onEnd: () => void this.#watching.delete(queue),
    })
    if (!signal.aborted) this.#watching.set(queue, watcher)
    return queue.events
  }

  tell(found: Found<T>): void {
    for (const [queue, watcher] of this.#watching) this.#show(queue, watcher, found)
  }

  /** Views have changed: what may no longer be seen is gone, what may be seen is there. */
  lookAgain(present: readonly T[]): void {
    for (const [queue, watcher] of this.#watching) {
      if (watcher.view) for (const entry of present) this.#show(queue, watcher, { entry, deleted: false }, true)
    }
  }

  close(): void {
    for (const queue of [...this.#watching.keys()]) queue.end()
  }

  #show(queue: EventQueue<Found<T>>, watcher: Watcher<T>, found: Found<T>, isKnown = false): void {
    const before = watcher.shown.get(found.entry.name)
    const seen = seenBy(watcher, found)
    const isNews = seen?.deleted || !isKnown || before !== seen?.entry
    if (seen && isNews) queue.push(seen)
  }
}

/** The event as this watcher may see it; what is hidden from now on, or fits its query no longer, is deleted for it. */
function seenBy<T extends { readonly name: string }>(watcher: Watcher<T>, found: Found<T>): Found<T> | undefined {
  const { view, shown, matches } = watcher
  const fits = matches(found.entry)
  if (!view) return fits ? found : undefined
  const { name } = found.entry
  const before = shown.get(name)
  const entry = found.deleted || !fits ? undefined : view(found.entry)
  if (entry && (entry === found.entry || matches(entry))) {
    shown.set(name, entry)
    return { entry, deleted: false }
  }
  if (!before) return undefined
  shown.delete(name)
  return { entry: before, deleted: true }
}
