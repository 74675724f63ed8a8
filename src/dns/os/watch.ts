import { type FSWatcher, watch } from 'node:fs'
import { basename, dirname } from 'node:path'
import type { Log } from '../../base/log.ts'
import { contentOf } from './file-object.ts'

/** Ours: a foreign rewrite is answered at most so often; then the other program wins and a person is told. */
const reappliesMax = 10
const reappliesWindowMs = 5_000

/** What a watch needs; `reapply` gets the text another program wrote. */
export interface WatchSettings {
  readonly path: string
  readonly log: Log
  /** True for a text that we made, or that still sends the system to us. */
  readonly isOurs: (text: string) => boolean
  /** True for a text that another nsm wrote: two that answer each other would never end. */
  readonly isAnothers: (text: string) => boolean
  readonly reapply: (text: string) => Promise<void>
}

/** A running watch. */
export interface ResolvWatch {
  /** Runs a change of our own while no foreign one is looked at; not at all once the file was left to another program. */
  exclusively(change: () => Promise<void>): Promise<void>
  /** Ends the watch and waits for a change under way. */
  close(): Promise<void>
}

/** Watches the directory (a watch on the file dies with a rename) and writes our text again when another program changed it. */
export function watchResolvFile(settings: WatchSettings): ResolvWatch {
  const { path, log } = settings
  let queue = Promise.resolve()
  let closed = false
  let leftToOthers = false
  let reapplied: number[] = []
  const exclusively = (change: () => Promise<void>) => {
    const done = queue.then(() => (leftToOthers ? undefined : change()))
    queue = done.catch(() => {})
    return done
  }
  const leave = (sentence: string) => {
    leftToOthers = true
    watcher?.close()
    log.warn(sentence, { path })
  }
  const look = async () => {
    if (closed) return
    const text = (await contentOf(path))?.toString('utf8') ?? ''
    if (text === '' || settings.isOurs(text)) return
    if (settings.isAnothers(text)) return leave('another nsm has taken the resolver file; it is left to it')
    const nowMs = performance.now()
    reapplied = [...reapplied.filter((atMs) => nowMs - atMs < reappliesWindowMs), nowMs]
    if (reapplied.length <= reappliesMax) return settings.reapply(text)
    leave('another program keeps changing the resolver file; it is left to it')
  }
  const watcher = watchFolder(dirname(path), (name) => {
    if (name === basename(path))
      exclusively(look).catch((error) => log.warn('resolver file not renewed', { error: `${error}` }))
  })
  return {
    exclusively,
    close: async () => {
      closed = true
      watcher?.close()
      await queue
    },
  }
}

/** A machine without watches left is no reason to fail: then foreign changes are found at the next change of ours. */
export function watchFolder(dir: string, onName: (name: string | null) => void): FSWatcher | undefined {
  try {
    const watcher = watch(dir, { persistent: false }, (_event, name) => onName(name))
    watcher.on('error', () => watcher.close())
    return watcher
  } catch {
    return undefined
  }
}
