import { optBytes, writeOpt } from './message.ts'
import { nameFromText } from './name.ts'
import { classInternet, flag, headerBytes, write16 } from './wire.ts'

/** A question of our own. */
export interface OwnQuestion {
  /** Domain name in text. */
  readonly name: string
  readonly type: number
  readonly id: number
  /** True to send our OPT: room for 1232 bytes and for extended errors. */
  readonly edns: boolean
  readonly dnssecOk?: boolean
}

/** The message of a question with RD set. Throws `USAGE` for a name that is none. */
export function buildQuestion(question: OwnQuestion): Buffer {
  const name = nameFromText(question.name)
  const end = headerBytes + name.length + 4
  const message = Buffer.alloc(end + (question.edns ? optBytes(undefined) : 0))
  write16(message, 0, question.id)
  write16(message, 2, flag.recursionDesired)
  write16(message, 4, 1)
  write16(message, 10, question.edns ? 1 : 0)
  message.set(name, headerBytes)
  write16(message, end - 4, question.type)
  write16(message, end - 2, classInternet)
  if (question.edns) writeOpt(message, end, { dnssecOk: question.dnssecOk ?? false })
  return message
}
