import { describe, expect, test } from 'vitest'
import { Outbox } from '../../../src/nsm/http2/outbox.ts'

function start(room: readonly boolean[] = []) {
  const writes: string[] = []
  const out = new Outbox({
    write(bytes) {
      writes.push(String(bytes))
      return room[writes.length - 1] ?? true
    },
  })
  return { out, writes }
}

describe('an outbox', () => {
  test('hands over what one turn wrote in one piece, after the turn', async () => {
    const { out, writes } = start()
    for (const text of ['a', 'b', 'c']) out.write(Buffer.from(text))
    expect(writes).toEqual([])
    await Promise.resolve()
    expect(writes).toEqual(['abc'])
    out.write(Buffer.from('d'))
    await Promise.resolve()
    expect(writes).toEqual(['abc', 'd'])
  })

  test('that is held keeps all until it is flushed', async () => {
    const { out, writes } = start()
    out.hold()
    out.write(Buffer.from('a'))
    await Promise.resolve()
    expect(writes).toEqual([])
    out.flush()
    out.flush()
    expect(writes).toEqual(['a'])
  })

  test('does not wait with much, and keeps the order', () => {
    const { out, writes } = start()
    out.hold()
    out.write(Buffer.from('first'))
    out.write(Buffer.alloc(256 * 1024, 'x'))
    expect(writes.map(({ length }) => length)).toEqual([5 + 256 * 1024])
    out.write(Buffer.from('last'))
    out.flush()
    expect(writes.at(-1)).toBe('last')
  })

  test('says that the socket has no room, and still writes what must go out', () => {
    const { out, writes } = start([false])
    out.write(Buffer.from('a'))
    expect(out.isBlocked).toBe(false)
    out.flush()
    expect(out.isBlocked).toBe(true)
    out.write(Buffer.from('ping'))
    out.flush()
    expect(writes).toEqual(['a', 'ping'])
  })
})
