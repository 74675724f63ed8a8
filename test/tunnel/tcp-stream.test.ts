import { once } from 'node:events'
import { describe, expect, test } from 'vitest'
import { type StackCommand, streamWindowBytes } from '../../src/tunnel/stack-messages.ts'
import { TcpStream } from '../../src/tunnel/tcp-stream.ts'

/** A stream whose other thread is the test. */
function open() {
  const told: StackCommand[] = []
  let closed = 0
  const stream = new TcpStream({
    ...{ socket: 4, remote: { address: '10.0.0.2', port: 80 }, localPort: 0 },
    tell: (command) => told.push(command),
    onClose: () => closed++,
  })
  stream.on('error', () => {})
  const count = (act: 'taken' | 'write') =>
    told.reduce((sum, one) => {
      if (one.act !== act) return sum
      return sum + (one.act === 'taken' ? one.count : one.act === 'write' ? one.bytes.length : 0)
    }, 0)
  return { stream, told, count, closed: () => closed }
}

const bytes = (length: number) => new Uint8Array(length)

describe('TcpStream', () => {
  test('gives back what its reader took, and only that', async () => {
    const { stream, count } = open()
    stream.hear({ news: 'connected' })
    for (let i = 0; i < 10; i++) stream.hear({ news: 'data', bytes: bytes(20_000) })
    await new Promise(setImmediate)
    const early = count('taken')
    expect(early).toBeLessThan(200_000)
    let read = 0
    stream.on('data', (chunk) => {
      read += chunk.length
    })
    await expect.poll(() => read).toBe(200_000)
    await expect.poll(() => count('taken')).toBe(200_000)
  })

  test('gives the other thread no more than the window, and the rest as it is taken', async () => {
    const { stream, count } = open()
    stream.hear({ news: 'connected' })
    const chunk = 100_000
    for (let i = 0; i < 10; i++) stream.write(bytes(chunk))
    expect(count('write')).toBeGreaterThanOrEqual(streamWindowBytes)
    expect(count('write')).toBeLessThan(streamWindowBytes + chunk)
    stream.hear({ news: 'wrote', count: chunk })
    // What waited in the stream crosses as one.
    await expect.poll(() => count('write')).toBe(10 * chunk)
  })

  test('crosses with a copy of its own: what is written may be used again at once', () => {
    const { stream, told } = open()
    const pooled = Buffer.from('abc')
    stream.write(pooled)
    pooled.fill('x')
    const [first] = told
    expect(first?.act === 'write' && Buffer.from(first.bytes).toString()).toBe('abc')
    expect(first?.act === 'write' && first.bytes.buffer.byteLength).toBe(3)
  })

  test('ends behind its last byte, and is released whole when both ends have ended', async () => {
    const { stream, told, closed } = open()
    stream.hear({ news: 'connected' })
    stream.resume()
    stream.end('last')
    await once(stream, 'finish')
    expect(told.map(({ act }) => act)).toEqual(['write', 'end'])
    stream.hear({ news: 'ended' })
    await once(stream, 'close')
    expect(told.at(-1)).toEqual({ act: 'release', socket: 4, breaks: false })
    expect(closed()).toBe(1)
  })

  test.each([
    ['destroyed', (stream: TcpStream) => void stream.destroy()],
    ['destroyed after its own end', (stream: TcpStream) => void stream.end(() => stream.destroy())],
    ['reset', (stream: TcpStream) => stream.hear({ news: 'reset' })],
  ])('is broken off when it is %s', async (_name, act) => {
    const { stream, told } = open()
    stream.hear({ news: 'connected' })
    act(stream)
    await new Promise((resolve) => stream.once('close', resolve))
    expect(told.at(-1)).toEqual({ act: 'release', socket: 4, breaks: true })
  })

  test.each([
    ['refused', false, 'UNREACHABLE', /no connection .* is possible/],
    ['reset', false, 'UNREACHABLE', /refuses connections/],
    ['lost', false, 'UNREACHABLE', /does not answer/],
    ['reset', true, 'LOST', /broken off/],
    ['lost', true, 'LOST', /does not answer/],
  ] as const)('that is %s (open before: %s) fails with %s', async (news, isOpen, code, message) => {
    const { stream } = open()
    if (isOpen) stream.hear({ news: 'connected' })
    const failed = once(stream, 'error')
    stream.hear({ news })
    expect((await failed)[0]).toMatchObject({ code, message: expect.stringMatching(message) })
  })
})
