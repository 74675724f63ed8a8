import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'

/** One stored message. */
export interface CorpusEntry {
  readonly what: string
  readonly bytes: Buffer
}

/** The stored messages that broke some program. */
export function readCorpus(): readonly CorpusEntry[] {
  const text = readFileSync(resolve(import.meta.dirname, '../vectors/dns/corpus.txt'), 'utf8')
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return lines.map((line) => {
    const [what = '', hex = ''] = line.split('\t')
    return { what, bytes: Buffer.from(hex, 'hex') }
  })
}

/** Counts the bytes that are read of a message: work that no machine's speed can change. */
export function countingReads(bytes: Uint8Array): { readonly view: Uint8Array; reads(): number } {
  let reads = 0
  const view = new Proxy(bytes, {
    get(target, key) {
      if (typeof key === 'string' && /^\d+$/.test(key)) reads++
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  return { view, reads: () => reads }
}
