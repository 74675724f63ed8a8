import { stat } from 'node:fs/promises'
import type { Clock } from '../base/clock.ts'
import { createTurns } from '../base/turns.ts'

/** A settings file that is read again when it changes. */
export interface FollowedFile {
  /** Reads it at once, changed or not. */
  reload(): Promise<void>
  close(): void
}

/** Ours: two looks make a change; what nobody admits any more is out 5 s after it. */
const lookEveryMs = 500

/**
 * Looks at the file twice a second and loads it when it has changed and then stood still between two looks: half a file
 * may be a whole policy with less in it. `load` handles what it throws; loads never overlap.
 */
export function followFile(
  path: string,
  parts: {
    /** Its state before it was first read, so that no change after that is missed. */
    readonly since: FileState
    readonly clock: Clock
    readonly load: () => Promise<void>
  },
): FollowedFile {
  const { clock } = parts
  const turns = createTurns()
  const load = () => turns.run('', parts.load)
  let [loaded, seen] = [parts.since, parts.since]
  let isClosed = false
  let cancel = () => {}
  const again = () => {
    cancel = clock.after(lookEveryMs, () => void look())
  }
  const look = async () => {
    const state = await fileState(path)
    if (isClosed) return
    if (state === seen && state !== loaded) {
      loaded = state
      await load()
    }
    seen = state
    if (!isClosed) again()
  }
  void look()
  return {
    reload: load,
    close() {
      isClosed = true
      cancel()
    },
  }
}

/** Differs whenever somebody has written or replaced the file. */
export type FileState = string

/** What a file is like at the moment; a link is followed. */
export async function fileState(path: string): Promise<FileState> {
  try {
    const { ino, size, mtimeMs, ctimeMs } = await stat(path)
    return [ino, size, mtimeMs, ctimeMs].join(' ')
  } catch {
    return 'gone'
  }
}
