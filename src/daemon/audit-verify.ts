import { createReadStream } from 'node:fs'
import { readJsonObject } from '../base/json.ts'
import { auditFiles, auditFilesToRead, readHead } from './audit-disk.ts'
import { type ChainPlace, placeAfter, placeOf } from './audit-line.ts'

/** What is wrong with a log, and where. */
export interface AuditProblem {
  readonly file: string
  /** From 1; 0 when no line of it is to blame. */
  readonly line: number
  readonly why: string
}

/** What a check of a log found. */
export interface AuditVerdict {
  readonly path: string
  readonly lines: number
  readonly firstSeq: number
  readonly lastSeq: number
  /** SHA-256 of the last line, hex: noted elsewhere, it convicts whoever writes the whole log anew. */
  readonly head: string
  /** Lines in which the program itself says that something was amiss. */
  readonly repairs: number
  /** The first thing that is wrong. */
  readonly problem?: AuditProblem
}

/**
 * Checks the chain of a log from its oldest line to its head; `witness` is the head of an earlier check and must still be
 * a part of it. May run while the log is written. Throws `USAGE` when there is no such log.
 */
export async function verifyAudit(path: string, witness?: string): Promise<AuditVerdict> {
  for (let tries = 1; ; tries++) {
    const head = await readHead(path)
    const files = await auditFilesToRead(path)
    const verdict = await check({ path, files, head, witness })
    // A file that was set aside meanwhile looks like a hole.
    const isSteady = (await auditFiles(path)).join() === files.join()
    if (!verdict.problem || isSteady || tries >= triesMax) return verdict
  }
}

/** Ours: a log is set aside every 16 MiB, so that twice within one check is rare. */
const triesMax = 3

interface Check {
  readonly path: string
  readonly files: readonly string[]
  readonly head: Awaited<ReturnType<typeof readHead>>
  readonly witness: string | undefined
}

async function check({ path, files, head, witness }: Check): Promise<AuditVerdict> {
  const walk = new Walk(head, witness)
  for (const file of files) {
    for await (const [number, line] of linesOf(file)) {
      const why = walk.take(line)
      if (why !== undefined) return { path, ...walk.counts, problem: { file, line: number, why } }
    }
  }
  const why = walk.missing()
  const file = files.at(-1) ?? path
  return { path, ...walk.counts, ...(why === undefined ? {} : { problem: { file, line: 0, why } }) }
}

/** The whole lines of a file with their numbers; what a crash or a writer at work leaves behind them is none. */
async function* linesOf(file: string): AsyncGenerator<readonly [number, string], void> {
  let number = 0
  let rest = ''
  for await (const chunk of createReadStream(file, 'utf8')) {
    const parts = (rest + chunk).split('\n')
    rest = parts.pop() ?? ''
    for (const line of parts) yield [++number, line]
  }
}

/** One pass along the chain. */
class Walk {
  readonly #head: Check['head']
  #witness: string | undefined
  #lines = 0
  #firstSeq = 0
  #repairs = 0
  /** The place that the next line must have. */
  #next: ChainPlace | undefined
  #passedHead: boolean

  constructor(head: Check['head'], witness: string | undefined) {
    this.#head = head
    this.#witness = witness
    // A head that knows of no line yet.
    this.#passedHead = head !== undefined && head.next.seq <= head.first.seq
  }

  /** What is wrong with the next line. */
  take(line: string): string | undefined {
    const read = readJsonObject(line)
    const place = placeOf(read)
    if (!place) return 'it is no line of an audit log'
    const why = this.#next ? misfit(this.#next, place) : this.#misfitOfFirst(place)
    if (why !== undefined) return why
    if (read?.['event'] === 'state.repaired') this.#repairs++
    this.#lines++
    this.#firstSeq ||= place.seq
    this.#next = placeAfter(line, place.seq)
    const { seq, prev } = this.#next
    if (prev === this.#witness) this.#witness = undefined
    if (this.#head?.next.seq !== seq) return undefined
    this.#passedHead = true
    return this.#head.next.prev === prev ? undefined : 'it was changed: the head has another hash of it'
  }

  /** What is not there although it should be. */
  missing(): string | undefined {
    if (!this.#head) return this.#lines === 0 ? undefined : 'its head is missing: lines may be cut off its end'
    const { seq } = this.#head.next
    const lastSeq = this.counts.lastSeq
    if (!this.#passedHead) return `its end is cut off: it has lines up to ${lastSeq}, and there were ${seq - 1}`
    return this.#witness === undefined ? undefined : 'the witness is no line of it'
  }

  get counts(): Omit<AuditVerdict, 'path' | 'problem'> {
    const head = this.#next?.prev ?? ''
    const lastSeq = (this.#next?.seq ?? 1) - 1
    return { lines: this.#lines, firstSeq: this.#firstSeq, lastSeq, head, repairs: this.#repairs }
  }

  /** A log begins where its head says; older files may wait to be removed. */
  #misfitOfFirst({ seq, prev }: ChainPlace): string | undefined {
    const first = this.#head?.first
    if (!first) return undefined
    if (seq > first.seq) return `its beginning is cut off: lines ${first.seq} to ${seq - 1} are missing`
    return seq === first.seq && prev !== first.prev ? 'it was changed: the head knows another first line' : undefined
  }
}

function misfit(expected: ChainPlace, { seq, prev }: ChainPlace): string | undefined {
  if (seq > expected.seq) return `lines ${expected.seq} to ${seq - 1} are missing before it`
  if (seq < expected.seq) return `its number is ${seq}, and ${expected.seq} is due`
  return prev === expected.prev ? undefined : 'it does not follow from the line before: one of the two was changed'
}
