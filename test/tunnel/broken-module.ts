import { readFileSync } from 'node:fs'

/** Sections of a module [WebAssembly 1.0, 5.5.2]. */
const section = { import: 2, export: 7, code: 10 } as const
const opcode = { unreachable: 0x00, nop: 0x01, end: 0x0b } as const

/** The engine whose export of this name traps on its first instruction; all else is as it was. */
export function engineThatTrapsIn(name: string): WebAssembly.Module {
  const url = new URL('../../src/tunnel/wireguard/engine.wasm', import.meta.url)
  const bytes = Uint8Array.from(readFileSync(url))
  const sections = readSections(bytes)
  const index = exportedFunction(bytes, sections.get(section.export), name) - importedFunctions(bytes, sections)
  const reader = new Reader(bytes, sections.get(section.code))
  reader.number()
  for (let i = 0; i < index; i++) reader.skip(reader.number())
  const length = reader.number()
  bytes.fill(opcode.nop, reader.at, reader.at + length)
  // No locals, and what follows the trap is never reached.
  bytes.set([0, opcode.unreachable], reader.at)
  bytes[reader.at + length - 1] = opcode.end
  return new WebAssembly.Module(bytes)
}

/** Reads LEB128 numbers and names one after the other. */
class Reader {
  readonly #bytes: Uint8Array
  at: number

  constructor(bytes: Uint8Array, at = bytes.length) {
    this.#bytes = bytes
    this.at = at
  }

  byte(): number {
    return this.#bytes[this.at++] ?? 0
  }

  number(): number {
    for (let value = 0, shift = 0; ; shift += 7) {
      const byte = this.byte()
      value += (byte & 0x7f) * 2 ** shift
      if (byte < 0x80) return value
    }
  }

  name(): string {
    const length = this.number()
    this.at += length
    return Buffer.from(this.#bytes.subarray(this.at - length, this.at)).toString()
  }

  skip(count: number): void {
    this.at += count
  }
}

/** Where the contents of each section begin. */
function readSections(bytes: Uint8Array): ReadonlyMap<number, number> {
  const reader = new Reader(bytes, 8)
  const found = new Map<number, number>()
  while (reader.at < bytes.length) {
    const id = reader.byte()
    const length = reader.number()
    if (id !== 0) found.set(id, reader.at)
    reader.skip(length)
  }
  return found
}

function exportedFunction(bytes: Uint8Array, at: number | undefined, name: string): number {
  const reader = new Reader(bytes, at)
  for (let left = reader.number(); left > 0; left--) {
    const found = reader.name()
    const kind = reader.byte()
    const index = reader.number()
    if (found === name && kind === 0) return index
  }
  throw new Error(`the engine has no ${name}`)
}

/** Imported functions have the first numbers; the engine imports nothing else. */
function importedFunctions(bytes: Uint8Array, sections: ReadonlyMap<number, number>): number {
  return new Reader(bytes, sections.get(section.import)).number()
}
