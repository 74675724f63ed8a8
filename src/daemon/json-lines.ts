import { NsmError } from '../base/errors.ts'
import { isJsonObject, type JsonObject } from '../base/json.ts'

/** Ours [security L15]: a longer message ends the connection. */
export const messageMaxBytes = 1024 * 1024

/** Collects bytes and gives whole messages: one JSON object per line. */
export class LineReader {
  readonly #maxBytes: number
  #parts: Uint8Array[] = []
  #bytes = 0

  constructor(maxBytes: number = messageMaxBytes) {
    this.#maxBytes = maxBytes
  }

  /** The messages that are complete with these bytes; throws `USAGE` for a message that is too long or no JSON object. */
  push(chunk: Uint8Array): JsonObject[] {
    const messages: JsonObject[] = []
    let from = 0
    for (let end = chunk.indexOf(lineFeed); end >= 0; end = chunk.indexOf(lineFeed, from)) {
      this.#keep(chunk.subarray(from, end))
      messages.push(parseMessage(this.#take()))
      from = end + 1
    }
    this.#keep(chunk.subarray(from))
    return messages
  }

  #keep(bytes: Uint8Array): void {
    this.#bytes += bytes.length
    if (this.#bytes > this.#maxBytes) throw malformed(`a message has more than ${this.#maxBytes} bytes`)
    if (bytes.length > 0) this.#parts.push(Uint8Array.from(bytes))
  }

  #take(): string {
    const text = new TextDecoder().decode(Buffer.concat(this.#parts))
    this.#parts = []
    this.#bytes = 0
    return text
  }
}

/** One message with its end of line. */
export function encodeLine(message: object): string {
  return `${JSON.stringify(message)}\n`
}

const lineFeed = 0x0a

function parseMessage(text: string): JsonObject {
  const value = parseJson(text)
  if (!isJsonObject(value)) throw malformed('a message is not a JSON object')
  return value
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw malformed('a message is not JSON', cause)
  }
}

function malformed(message: string, cause?: unknown): NsmError {
  return new NsmError('USAGE', message, 'use the nsm command of the same version as the background process', { cause })
}
