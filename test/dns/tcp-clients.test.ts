import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { afterEach, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { type Dns, openDns } from '../../src/dns/dns.ts'
import { framed } from '../../src/dns/tcp-ask.ts'
import { questionBytes } from '../support/dns-client.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

async function open(): Promise<{ readonly dns: Dns; readonly socket: Socket }> {
  const clock = createFakeClock()
  const listen = [{ address: '127.0.0.1', port: 0 }]
  const dns = await openDns({ clock, log: silentLog, listen, defaultUpstreams: [] })
  const socket = connect({ host: '127.0.0.1', port: dns.listening.port })
  await once(socket, 'connect')
  closers.push(async () => {
    socket.destroy()
    await dns.close()
  })
  return { dns, socket }
}

/** Reads until so many bytes have come. */
async function readBytes(socket: Socket, count: number): Promise<number> {
  let received = 0
  while (received < count) {
    const [chunk] = await once(socket, 'data')
    received += chunk.length
  }
  return received
}

const message = framed(questionBytes('localhost'))
/** An answer adds one A record with its whole name. */
const answerBytes = message.length + 25

describe('a client over TCP', () => {
  test('that sends thousands of questions at once, all answered here, gets every answer', async () => {
    const { dns, socket } = await open()
    const count = 20_000
    socket.write(Buffer.concat(Array.from({ length: count }, () => message)))
    expect(await readBytes(socket, count * answerBytes)).toBe(count * answerBytes)
    expect(dns.status().counters.queries).toBe(count)
  })

  test('that takes no answers is not read any further, and goes on once it takes them', async () => {
    const { dns, socket } = await open()
    const count = 300_000
    socket.pause()
    const questions = Buffer.concat(Array.from({ length: count }, () => message))
    const answersBytes = count * answerBytes
    socket.write(questions)
    let before = -1
    while (dns.status().counters.queries !== before) {
      before = dns.status().counters.queries
      for (let turn = 0; turn < 200; turn++) await new Promise((resolve) => setImmediate(resolve))
    }
    expect(before).toBeLessThan(count)
    socket.resume()
    expect(await readBytes(socket, answersBytes)).toBe(answersBytes)
    expect(dns.status().counters.queries).toBe(count)
  })

  test('that half-closes gets its answers and is closed then', async () => {
    const { socket } = await open()
    socket.end(Buffer.concat([message, message]))
    expect(await readBytes(socket, 2 * answerBytes)).toBe(2 * answerBytes)
    await once(socket, 'close')
  })

  test.each([
    ['a length below a header', Buffer.of(0, 11, 0)],
    ['a length beyond 4096', Buffer.of(0x10, 1, 0)],
    ['a reply', framed(Buffer.alloc(12, 0x80))],
  ])('that sends %s is cut off', async (_what, bytes) => {
    const { socket } = await open()
    socket.on('error', () => {})
    socket.write(bytes)
    socket.resume()
    await once(socket, 'close')
  })

  test('beyond the 64th is turned away, and a place that gets free is given again', async () => {
    const { dns, socket } = await open()
    const others = Array.from({ length: 63 }, () => connect({ host: '127.0.0.1', port: dns.listening.port }))
    await Promise.all(others.map((other) => once(other, 'connect')))
    for (const other of others) other.on('error', () => {})
    socket.write(message)
    await readBytes(socket, answerBytes)
    const late = connect({ host: '127.0.0.1', port: dns.listening.port })
    late.on('error', () => {})
    late.resume()
    await once(late, 'close')
    for (const other of others) other.destroy()
  })
})
