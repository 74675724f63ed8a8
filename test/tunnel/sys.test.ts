import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { becauseOf, errno, errnoName, errnoOf, systemError } from '../../src/tunnel/sys/errno.ts'
import { giveMemoryBack } from '../../src/tunnel/sys/heap.ts'
import { MessageHeaders } from '../../src/tunnel/sys/message-headers.ts'
import { loadKoffi } from '../../src/tunnel/sys/native.ts'
import { askKernel, attribute, joinBytes, number32, readAttributes } from '../../src/tunnel/sys/netlink.ts'

const onLinux = process.platform === 'linux'

describe('systemError', () => {
  test.each([
    [errno.EPERM, 'PERMISSION'],
    [errno.EACCES, 'PERMISSION'],
    [errno.EBUSY, 'CONFLICT'],
    [errno.EEXIST, 'CONFLICT'],
    [errno.EADDRINUSE, 'CONFLICT'],
    [errno.EADDRNOTAVAIL, 'USAGE'],
    [errno.EBADFD, 'LOST'],
    [errno.ENODEV, 'LOST'],
    [errno.ENETUNREACH, 'UNREACHABLE'],
    [errno.EIO, 'BUG'],
    [12_345, 'BUG'],
  ])('number %i is %s and says what to do', (number, code) => {
    const error = systemError('cannot open it', number)
    expect(error.code).toBe(code)
    expect(error.message).toBe(`cannot open it: ${errnoName(number)}`)
    expect(error.next).not.toBe('')
    expect(errnoOf(error)).toBe(number)
  })

  test('an error in other words carries the number too; one that the system has no part in has none', () => {
    expect(errnoOf(new NsmError('CONFLICT', 'taken', 'x', { cause: becauseOf(errno.EADDRINUSE) }))).toBe(98)
    expect(errnoOf(new NsmError('CONFLICT', 'taken: EADDRINUSE', 'x'))).toBeUndefined()
    expect(errnoOf(new NsmError('CONFLICT', 'x', 'x', { cause: { systemErrno: 'EPERM' } }))).toBeUndefined()
  })

  test('a number without a name is written as it is', () => {
    expect(errnoName(12_345)).toBe('errno 12345')
    expect(errnoName(errno.EBUSY)).toBe('EBUSY')
  })
})

/** Only the GNU C library has the call. */
const canTrim = (() => {
  try {
    return Boolean(loadKoffi().load(null).func('int malloc_trim(size_t pad)'))
  } catch {
    return false
  }
})()

describe('giveMemoryBack', () => {
  test.skipIf(!canTrim)('gives freed memory below memory in use back to the system (needs malloc_trim)', () => {
    const library = loadKoffi().load(null)
    const malloc: (bytes: number) => number = library.func('uintptr_t malloc(size_t bytes)')
    const free: (pointer: number) => void = library.func('void free(uintptr_t pointer)')
    // Each has a header on its own page, so all of it is resident; the last one keeps the heap's end in use.
    const blocks = Array.from({ length: 20_000 }, () => malloc(4_000))
    const last = malloc(4_000)
    for (const block of blocks) free(block)
    const before = process.memoryUsage().rss
    giveMemoryBack()
    expect(before - process.memoryUsage().rss).toBeGreaterThan(20_000_000)
    free(last)
  })

  test('may be called again and again', () => {
    giveMemoryBack()
    expect(() => giveMemoryBack()).not.toThrow()
  })
})

describe('netlink', () => {
  const values = fc.uniqueArray(fc.tuple(fc.integer({ min: 1, max: 60 }), fc.uint8Array({ maxLength: 40 })), {
    selector: ([type]) => type,
  })

  test('attributes are read as they were written, whatever their length', () => {
    fc.assert(
      fc.property(values, fc.uint8Array({ minLength: 12, maxLength: 12 }), (entries, head) => {
        const body = joinBytes(head, ...entries.map(([type, value]) => attribute(type, value)))
        expect(new Map([...readAttributes(body, 12)].map(([type, value]) => [type, [...value]]))).toEqual(
          new Map(entries.map(([type, value]) => [type, [...value]])),
        )
      }),
    )
  })

  test('no bytes make the reader of attributes throw or run for ever', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => void readAttributes(bytes, 0)))
  })

  test.skipIf(!onLinux)('the kernel answers with the number of the error (needs Linux)', () => {
    const getLink = { type: 18, flags: 0, body: joinBytes(new Uint8Array(16), number32(0)) }
    expect(askKernel(getLink).error).toBeGreaterThan(0)
    const dump = askKernel({ type: 18, flags: 0x300, body: new Uint8Array(16) })
    expect(dump.error).toBe(0)
    expect(dump.bodies.length).toBeGreaterThan(0)
  })
})

describe.skipIf(!onLinux)('MessageHeaders (needs Linux)', () => {
  test('a header that was prepared for sending is read back as no received segments', () => {
    const headers = new MessageHeaders(4)
    headers.segment(2, 0)
    expect(headers.receivedSegmentBytes(2)).toBe(0)
    headers.segment(2, 1_452)
    expect(headers.receivedSegmentBytes(2)).toBe(0)
    expect(headers.stride).toBe(64)
    headers.name(2, 4_294_967_296 * 3 + 5, 16)
    expect(headers.nameBytes(2)).toBe(16)
    expect(headers.receivedBytes(2)).toBe(0)
  })
})
