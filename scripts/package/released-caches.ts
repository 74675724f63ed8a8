import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import { chunksPart, unpackChunks } from './pack-chunks.ts'

/**
 * Writes beside the chunks in `dir` the code caches that are in a finished executable: they are the one thing in it that no
 * second build makes again, so with them a build from the same sources is the same to the byte.
 */
export function copyCodeCaches(executable: string, dir: string): void {
  for (const [name, content] of unpackChunks(partOf(readFileSync(executable), executable))) {
    if (name.endsWith('.cache')) writeFileSync(join(dir, name), content)
  }
}

/** Node writes of each part the length of its name, the name, the length of the content, the content; lengths in 8 bytes. */
function partOf(file: Buffer, path: string): Buffer {
  const name = Buffer.concat([length64(chunksPart.length), Buffer.from(chunksPart)])
  const at = file.indexOf(name)
  if (at < 0) throw new NsmError('USAGE', `${path} is no executable of nsm`, 'name one that npm run package made')
  const content = at + name.length + 8
  return file.subarray(content, content + Number(file.readBigUInt64LE(content - 8)))
}

function length64(length: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(length))
  return bytes
}
