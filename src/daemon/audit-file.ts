import { constants } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import type { Audit, AuditEvent } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { createTurns } from '../base/turns.ts'
import {
  type AuditHead,
  auditHeadPath,
  forgetOldest,
  openPrivate,
  readEnd,
  readEndOfFull,
  readHead,
  readOldestPlace,
  setAside,
  writeHead,
} from './audit-disk.ts'
import { auditLine, type ChainPlace, chainStart, placeAfter } from './audit-line.ts'
import { AuditRate } from './audit-rate.ts'

/** An audit log on disk. */
export interface AuditFile extends Audit {
  /** Writes what waits; what comes later is lost. */
  close(): Promise<void>
}

/** Everything an audit log is made from. */
export interface AuditFileSettings {
  /** One process writes it at a time. */
  readonly path: string
  readonly clock: Clock
  readonly log: Log
  /** A file that is as large is set aside. */
  readonly maxBytes?: number
  /** Files that were set aside; more are removed. */
  readonly keep?: number
}

/**
 * Appends events to a chain of lines: each holds the hash of the one before, and the head file the hash of the last one.
 * Nobody waits for the disk: a kill loses what came in the last tenth of a second. A disk that is full stops nothing; what
 * could not be kept is counted in a line of its own.
 */
export function openAuditFile(settings: AuditFileSettings): AuditFile {
  return new Writer(settings)
}

/** Ours: one write and one fdatasync for all events of this time. */
const batchMs = 100
/** Ours: how often it is looked for what was left out. */
const sweepMs = 60_000
/** Ours: a disk that is full is tried again after this. */
const retryMs = 5_000
/** Ours: events that wait for a disk, about 300 B each. */
const waitingMax = 10_000
/** Ours: together 256 MiB, a year of a busy server, a week of a stranger's noise. */
const defaultMaxBytes = 16 * 1024 * 1024
const defaultKeep = 15

interface Waiting {
  readonly event: AuditEvent
  readonly wallMs: number
}

/** The open files, and where the chain goes on. */
interface Opened {
  file: FileHandle
  readonly head: FileHandle
  bytes: number
  next: ChainPlace
  first: ChainPlace
}

class Writer implements AuditFile {
  readonly #settings: AuditFileSettings
  readonly #rate = new AuditRate()
  #waiting: Waiting[] = []
  #lost = 0
  #opened: Opened | undefined
  readonly #turns = createTurns()
  #cancel = () => {}
  #cancelSweep: () => void
  #isFailing = false
  #isClosed = false

  constructor(settings: AuditFileSettings) {
    this.#settings = settings
    this.#cancelSweep = settings.clock.after(sweepMs, () => this.#sweep())
    void this.#turns.run('', () => this.#flush())
  }

  record(event: AuditEvent): void {
    if (this.#isClosed || !this.#rate.admits(event, this.#settings.clock.monotonicMs())) return
    this.#wait(event)
  }

  async close(): Promise<void> {
    this.#cancelSweep()
    for (const event of this.#rate.ended(Number.POSITIVE_INFINITY)) this.#wait(event)
    this.#isClosed = true
    this.#cancel()
    await this.#turns.settled()
    if (this.#waiting.length > 0) await this.#flush()
    await this.#closeFiles()
  }

  async #closeFiles(): Promise<void> {
    const { file, head } = this.#opened ?? {}
    this.#opened = undefined
    await Promise.allSettled([file?.close(), head?.close()])
  }

  #wait(event: AuditEvent): void {
    if (this.#waiting.length >= waitingMax) {
      this.#lost++
      return
    }
    this.#waiting.push({ event, wallMs: this.#settings.clock.wallMs() })
    if (this.#waiting.length === 1 && !this.#isFailing) this.#flushIn(batchMs)
  }

  #flushIn(delayMs: number): void {
    this.#cancel()
    this.#cancel = this.#settings.clock.after(delayMs, () => void this.#turns.run('', () => this.#flush()))
  }

  #sweep(): void {
    const { clock } = this.#settings
    for (const event of this.#rate.ended(clock.monotonicMs())) this.#wait(event)
    this.#cancelSweep = clock.after(sweepMs, () => this.#sweep())
  }

  async #flush(): Promise<void> {
    const { log, path } = this.#settings
    try {
      this.#opened ??= await this.#open()
      await this.#append(this.#opened)
      if (!this.#isFailing) return
      log.info('the audit log is written again', { path })
      this.#isFailing = false
      // While it failed, an event alone planned no write.
      if (this.#waiting.length > 0 && !this.#isClosed) this.#flushIn(batchMs)
    } catch (error) {
      if (!this.#isFailing) log.error('the audit log cannot be written', { path, error: toNsmError(error).message })
      this.#isFailing = true
      // What is there is looked at anew: a write or a change of files may have been done by half.
      await this.#closeFiles()
      if (!this.#isClosed) this.#flushIn(retryMs)
    }
  }

  /** Finds the end of the chain, and says so when it is not where it was left. */
  async #open(): Promise<Opened> {
    const { path } = this.#settings
    const head = await openPrivate(auditHeadPath(path), 0)
    let file: FileHandle | undefined
    try {
      file = await openPrivate(path, constants.O_APPEND)
      return await this.#openAt(head, file)
    } catch (error) {
      await Promise.allSettled([head.close(), file?.close()])
      throw error
    }
  }

  async #openAt(head: FileHandle, file: FileHandle): Promise<Opened> {
    const { path, clock } = this.#settings
    const [known, end, oldest] = [await readHead(path), await readEnd(file), await readOldestPlace(path)]
    if (end.tornBytes > 0) await file.truncate(end.wholeBytes)
    // A file that was set aside at the moment of a crash has no successor yet.
    const [broken, next] = whereToGoOn(known, end.next ?? (await readEndOfFull(path)))
    const reason = broken ?? (end.tornBytes > 0 ? 'TORN_LINE' : undefined)
    if (reason !== undefined) {
      const event: AuditEvent = { event: 'state.repaired', what: 'audit', reason, bytes: end.tornBytes }
      this.#waiting.unshift({ event, wallMs: clock.wallMs() })
    }
    const opened = { file, head, bytes: end.wholeBytes, next, first: known?.first ?? oldest ?? next }
    await writeHead(head, opened)
    return opened
  }

  /** The chain moves on only with what is on disk; what a full disk took of a batch is cut off again. */
  async #append(opened: Opened): Promise<void> {
    const batch = this.#takeBatch()
    if (batch.length === 0) return
    let place = opened.next
    let text = ''
    for (const { event, wallMs } of batch) {
      const line = auditLine(event, { ...place, wallMs })
      place = placeAfter(line, place.seq)
      text += `${line}\n`
    }
    const bytes = Buffer.from(text)
    try {
      await opened.file.appendFile(bytes)
      await opened.file.datasync()
    } catch (error) {
      this.#putBack(batch)
      await opened.file.truncate(opened.bytes)
      throw error
    }
    opened.bytes += bytes.length
    opened.next = place
    await writeHead(opened.head, opened)
    if (opened.bytes >= (this.#settings.maxBytes ?? defaultMaxBytes)) await this.#rotate(opened)
  }

  #takeBatch(): Waiting[] {
    const batch = this.#waiting.splice(0)
    if (this.#lost === 0) return batch
    const event: AuditEvent = { event: 'state.repaired', what: 'audit', reason: 'EVENTS_LOST', lost: this.#lost }
    this.#lost = 0
    return [...batch, { event, wallMs: this.#settings.clock.wallMs() }]
  }

  #putBack(batch: readonly Waiting[]): void {
    const kept = batch.filter(({ event }) => event['reason'] !== 'EVENTS_LOST')
    for (const { event } of batch) if (event['reason'] === 'EVENTS_LOST') this.#lost += Number(event['lost'])
    this.#waiting = [...kept, ...this.#waiting]
  }

  async #rotate(opened: Opened): Promise<void> {
    const { path, keep = defaultKeep } = this.#settings
    await setAside(path, opened.next.seq - 1)
    const full = opened.file
    opened.file = await openPrivate(path, constants.O_APPEND | constants.O_EXCL)
    opened.bytes = 0
    await full.close()
    await forgetOldest(path, keep, async (first) => {
      opened.first = first
      await writeHead(opened.head, opened)
    })
  }
}

/**
 * The chain goes on behind its last line. Where the head knows of lines that are gone it goes on behind those, so that the
 * hole can be seen for ever.
 */
function whereToGoOn(head: AuditHead | undefined, found: ChainPlace | undefined): [string | undefined, ChainPlace] {
  if (!head) return found ? ['HEAD_MISSING', found] : [undefined, chainStart]
  const { next: known, first } = head
  if (!found && known.seq <= first.seq) return [undefined, known]
  if (!found || known.seq > found.seq) return ['LINES_MISSING', known]
  if (known.seq === found.seq && known.prev !== found.prev) return ['LINES_CHANGED', known]
  // A crash between a write and its note in the head leaves lines that the head does not know.
  return [undefined, found]
}
