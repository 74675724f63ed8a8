import { isAlias, isMap, isNode, isScalar, isSeq, LineCounter, parseDocument } from 'yaml'
import { parseDurationMs } from '../base/duration.ts'
import { NsmError } from '../base/errors.ts'

/** Ours: a thousand grants take 200 KiB. */
const fileMaxCharacters = 1024 * 1024
/** Ours: no name, URL or ID of a settings file is longer. */
const textMaxCharacters = 2_048

/** Reads YAML, and so JSON, without aliases, anchors and tags; throws `USAGE` that names file and line. */
export function readPlaced(text: string, file: string): PlacedValue {
  if (text.length > fileMaxCharacters) throw faultAt(file, `is larger than ${fileMaxCharacters} characters`)
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, merge: false })
  const [wrong] = [...document.errors, ...document.warnings]
  if (wrong) throw faultAt(`${file} line ${lines.linePos(wrong.pos[0]).line}:`, wrong.message)
  return new PlacedValue(document.contents, { file, lines, place: '', line: 1 })
}

interface Position {
  readonly file: string
  readonly lines: LineCounter
  /** Names and indices that lead to it; empty for the whole file. */
  readonly place: string
  readonly line: number
}

/** A value of a settings file that knows where it stands: whoever reads it says what it must be, or it refuses. */
export class PlacedValue {
  readonly #node: unknown
  readonly #at: Position

  constructor(node: unknown, at: Position) {
    this.#node = node
    const offset = isNode(node) ? node.range?.[0] : undefined
    this.#at = offset === undefined ? at : { ...at, line: at.lines.linePos(offset).line }
    const isMarked = isNode(node) && (isAlias(node) || node.tag !== undefined || node.anchor !== undefined)
    if (isMarked) throw this.fault('has an anchor, an alias or a tag, which are not read')
  }

  /** The line that it begins on, from 1. */
  get line(): number {
    return this.#at.line
  }

  /** An object with no other keys than these. */
  fields(known: readonly string[]): PlacedFields {
    const entries = this.entries()
    for (const [key, value] of entries) {
      if (!known.includes(key)) throw value.fault(`is not known; ${known.join(', ')} are`)
    }
    return new PlacedFields(this, new Map(entries))
  }

  /** An object with keys that are not known beforehand. */
  entries(): [string, PlacedValue][] {
    if (!isMap(this.#node)) throw this.fault('must be an object')
    return this.#node.items.map(({ key, value }) => {
      const name = isScalar(key) && typeof key.value === 'string' ? key.value : undefined
      if (name === undefined) throw this.fault('has a key that is no text: put it into quotes')
      const shown = name.slice(0, 64)
      return [name, this.#child(value ?? key, this.#at.place === '' ? shown : `${this.#at.place}.${shown}`)]
    })
  }

  list(): PlacedValue[] {
    if (!isSeq(this.#node)) throw this.fault('must be a list')
    return this.#node.items.map((item, index) => this.#child(item, `${this.#at.place}[${index}]`))
  }

  /** A list, or one value that stands for a list of itself. */
  oneOrMore(): PlacedValue[] {
    return isSeq(this.#node) ? this.list() : [this]
  }

  /** A text that is not empty. */
  text(): string {
    const value = this.#scalar()
    if (typeof value === 'string' && value !== '' && value.length <= textMaxCharacters) return value
    const what = `must be a text of 1 to ${textMaxCharacters} characters`
    throw this.fault(typeof value === 'string' ? what : `${what}: put it into quotes`)
  }

  /** True for an object. */
  get isObject(): boolean {
    return isMap(this.#node)
  }

  /** A text that `parse` takes, which throws for any other. */
  parsed<T>(parse: (text: string) => T): T {
    const text = this.text()
    try {
      return parse(text)
    } catch (error) {
      throw this.fault(error instanceof NsmError ? `is refused: ${error.message}` : 'cannot be read')
    }
  }

  /** One of these texts. */
  oneOf<T extends string>(known: readonly T[]): T {
    const value = this.#scalar()
    const found = known.find((one) => one === value)
    if (found === undefined) throw this.fault(`must be one of ${known.join(', ')}`)
    return found
  }

  /** A time of at most a day, written as `90s` or `1h`, in milliseconds. */
  durationMs(): number {
    const value = this.#scalar()
    try {
      return parseDurationMs(typeof value === 'string' ? value : '')
    } catch {
      throw this.fault('must be a time like 90s, 10m or 1h, at most 24h')
    }
  }

  /** A whole number from 1. */
  count(max: number): number {
    const value = this.#scalar()
    if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= max) return value
    throw this.fault(`must be a whole number from 1 to ${max}`)
  }

  /** The error of this place. */
  fault(what: string): NsmError {
    const { file, line, place } = this.#at
    return faultAt(`${file} line ${line}:${place === '' ? '' : ` ${place}`}`, what)
  }

  #scalar(): unknown {
    return isScalar(this.#node) ? this.#node.value : undefined
  }

  #child(node: unknown, place: string): PlacedValue {
    return new PlacedValue(node, { ...this.#at, place })
  }
}

/** The fields of an object. */
export class PlacedFields {
  readonly #owner: PlacedValue
  readonly #values: ReadonlyMap<string, PlacedValue>

  constructor(owner: PlacedValue, values: ReadonlyMap<string, PlacedValue>) {
    this.#owner = owner
    this.#values = values
  }

  /** The field, if it is there. */
  get(key: string): PlacedValue | undefined {
    return this.#values.get(key)
  }

  /** The field; throws `USAGE` when it is missing. */
  need(key: string): PlacedValue {
    const value = this.#values.get(key)
    if (!value) throw this.#owner.fault(`lacks ${key}`)
    return value
  }
}

function faultAt(where: string, what: string): NsmError {
  return new NsmError('USAGE', `${where} ${what}`, 'compare it with docs/identity.md')
}
