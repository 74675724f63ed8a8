import { type FileHandle, open, readFile, stat } from 'node:fs/promises'
import { type Clock, pause } from '../base/clock.ts'
import { type JsonObject, readJsonObject } from '../base/json.ts'
import { auditFilesToRead } from './audit-disk.ts'

/** An event as a line of a log has it. */
export type ReadEvent = JsonObject

/** The last events of several logs, oldest first, without looking at their chains. Throws `USAGE` for a log that is not there. */
export async function lastEvents(paths: readonly string[], count: number): Promise<ReadEvent[]> {
  const events = await Promise.all(paths.map((path) => lastOf(path, count)))
  const timeOf = ({ ts }: ReadEvent) => String(ts)
  return events
    .flat()
    .toSorted((a, b) => (timeOf(a) < timeOf(b) ? -1 : timeOf(a) > timeOf(b) ? 1 : 0))
    .slice(-count)
}

async function lastOf(path: string, count: number): Promise<ReadEvent[]> {
  const files = await auditFilesToRead(path)
  let events: ReadEvent[] = []
  for (const file of files.toReversed()) {
    const lines = (await readFile(file, 'utf8')).split('\n').slice(-count - 1)
    const read = lines.map(readJsonObject).filter((event) => event !== undefined)
    events = [...read, ...events].slice(-count)
    if (events.length >= count) break
  }
  return events
}

/** Ours: how often a log is looked at; whoever reads along does not see a shorter delay. */
const lookMs = 500

/** The events that are written from now on, until the signal is aborted; goes on in the next file when one is set aside. */
export async function* followEvents(
  path: string,
  { clock, signal }: { readonly clock: Clock; readonly signal: AbortSignal },
): AsyncGenerator<ReadEvent, void> {
  let file = await open(path)
  try {
    const reader = new EndReader((await file.stat()).size)
    while (!signal.aborted) {
      const isSetAside = (await stat(path).catch(() => undefined))?.ino !== (await file.stat()).ino
      yield* await reader.read(file)
      const next = isSetAside ? await open(path).catch(() => undefined) : undefined
      if (next) {
        await file.close()
        file = next
        reader.startOver()
      } else await pause(clock, lookMs, signal)
    }
  } finally {
    await file.close()
  }
}

/** Reads what was added to a file since the last time; a line that is half written waits for its end. */
class EndReader {
  #at: number
  #rest = ''

  constructor(at: number) {
    this.#at = at
  }

  startOver(): void {
    this.#at = 0
    this.#rest = ''
  }

  async read(file: FileHandle): Promise<ReadEvent[]> {
    const bytes = Buffer.alloc(Math.max(0, (await file.stat()).size - this.#at))
    const { bytesRead } = await file.read(bytes, 0, bytes.length, this.#at)
    this.#at += bytesRead
    const lines = (this.#rest + bytes.toString('utf8', 0, bytesRead)).split('\n')
    this.#rest = lines.pop() ?? ''
    return lines.map(readJsonObject).filter((event) => event !== undefined)
  }
}
