import { describe, expect, test } from 'vitest'
import { isSigned, withoutChecksum, withoutSignature } from '../../scripts/package/portable-executable.ts'

const header = 0x80
const optional = header + 24
const certificates = optional + 112 + 32

/** A Windows executable as far as it is looked at, with a signature of `bytes` at its end. */
function executable(bytes: number, kind = 0x20b): Buffer {
  const file = Buffer.alloc(1_024 + bytes, 0)
  file.writeUInt32LE(header, 0x3c)
  file.write('PE\0\0', header, 'latin1')
  file.writeUInt16LE(kind, optional)
  file.writeUInt32LE(0xabcd, optional + 64)
  if (bytes > 0) {
    file.writeUInt32LE(1_024, certificates)
    file.writeUInt32LE(bytes, certificates + 4)
    file.fill(9, 1_024)
  }
  return file
}

describe('withoutSignature', () => {
  test('cuts the signature off and forgets where it was', () => {
    expect(isSigned(executable(200))).toBe(true)
    const unsigned = withoutSignature(executable(200))
    expect(unsigned.equals(executable(0))).toBe(true)
    expect(isSigned(unsigned)).toBe(false)
  })

  test('leaves a file without one as it is', () => {
    expect(withoutSignature(executable(0)).equals(executable(0))).toBe(true)
  })

  test('changes nothing in the file that it was given', () => {
    const signed = executable(64)
    withoutSignature(signed)
    expect(signed.equals(executable(64))).toBe(true)
  })

  test('refuses a signature that has something behind it', () => {
    const longer = Buffer.concat([executable(64), Buffer.from('x')])
    expect(() => withoutSignature(longer)).toThrow('not the end of the file')
  })

  test.each([
    ['a 32-bit one', executable(0, 0x10b)],
    ['another kind of file', Buffer.alloc(1_024)],
  ])('refuses %s', (_what, file) => {
    expect(() => withoutSignature(file)).toThrow('no 64-bit Windows executable')
  })
})

describe('withoutChecksum', () => {
  test('sets it to none and nothing else', () => {
    const file = withoutChecksum(executable(0))
    expect(file.readUInt32LE(optional + 64)).toBe(0)
    file.writeUInt32LE(0xabcd, optional + 64)
    expect(file.equals(executable(0))).toBe(true)
  })
})
