import { type FSWatcher, watch } from 'node:fs'
import { basename, dirname } from 'node:path'
import type { Log } from '../../base/log.ts'
import { createTurns } from '../../base/turns.ts'
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
  /**
   * Runs a change of our own while no foreign one is looked at. What was left to another program is taken up again first: a
   * service that comes later is to have its names. Only what another nsm holds stays with it, and the change is not run.
   */
  exclusively(change: () => Promise<void>): Promise<void>
  /** Ends the watch and waits for a change under way. */
  close(): Promise<void>
}

/** Watches the directory (a watch on the file dies with a rename) and writes our text again when another program changed it. */
export function watchResolvFile(settings: WatchSettings): ResolvWatch {
  const { path, log } = settings
  const turns = createTurns()
  let closed = false
  let leftToOthers = false
  let reapplied: number[] = []
  const inTurn = (work: () => Promise<void>) => turns.run(path, work)
  const leave = (sentence: string) => {
    leftToOthers = true
    log.warn(sentence, { path })
  }
  const look = async () => {
    if (closed || leftToOthers) return
    const text = (await contentOf(path))?.toString('utf8') ?? ''
    if (text === '' || settings.isOurs(text)) return
    if (settings.isAnothers(text)) return leave('another nsm has taken the resolver file; it is left to it')
    const nowMs = performance.now()
    reapplied = [...reapplied.filter((atMs) => nowMs - atMs < reappliesWindowMs), nowMs]
    if (reapplied.length <= reappliesMax) return settings.reapply(text)
    leave('another program keeps changing the resolver file; it is left to it')
  }
  const takeUp = () => {
    leftToOthers = false
    reapplied = []
    return look()
  }
  const watcher = watchFolder(dirname(path), (name) => {
    if (name === basename(path))
      inTurn(look).catch((error) => log.warn('resolver file not renewed', { error: `${error}` }))
  })
  return {
    exclusively: (change) =>
      inTurn(async () => {
        if (leftToOthers) await takeUp()
        if (!leftToOthers) await change()
      }),
    close: async () => {
      closed = true
      watcher?.close()
      await turns.settled()
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
