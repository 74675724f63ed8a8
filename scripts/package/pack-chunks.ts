import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** The part of the executable that holds every chunk. */
export const chunksPart = 'chunks.bin'

/**
 * Writes the chunks in `dir`, each with its code cache where it has one, into one part beside them: Node looks through the
 * list of parts anew for every part that is asked for, and a start asks for a hundred chunks. First the length of the
 * index in 4 bytes, then the index, which says of each name where it begins and ends behind the index, then the bytes.
 */
export function packChunks(dir: string, chunks: readonly string[]): void {
  const names = chunks.flatMap((name) => [name, `${name}.cache`]).filter((name) => existsSync(join(dir, name)))
  const contents = names.map((name) => readFileSync(join(dir, name)))
  let end = 0
  const places = contents.map(({ length }) => {
    const start = end
    end += length
    return [start, end]
  })
  const index = Buffer.from(JSON.stringify(Object.fromEntries(names.map((name, i) => [name, places[i]]))))
  const length = Buffer.alloc(4)
  length.writeUInt32LE(index.length)
  writeFileSync(join(dir, chunksPart), Buffer.concat([length, index, ...contents]))
}

/** What `packChunks` has written, by name; each a view into `packed`. */
export function unpackChunks(packed: Buffer): ReadonlyMap<string, Buffer> {
  const begin = 4 + packed.readUInt32LE(0)
  const index: Readonly<Record<string, readonly [number, number]>> = JSON.parse(packed.toString('latin1', 4, begin))
  return new Map(Object.entries(index).map(([name, [from, to]]) => [name, packed.subarray(begin + from, begin + to)]))
}
