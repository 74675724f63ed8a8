import { beforeEach, describe, expect, test } from 'vitest'
import {
  datagramWindow,
  type StackCommand,
  type StackNews,
  streamWindowBytes,
} from '../../src/tunnel/stack-messages.ts'
import { StackSockets } from '../../src/tunnel/stack-sockets.ts'
import { type EngineStack, type SocketEvent, socketNews } from '../../src/tunnel/wireguard/engine.ts'
import { createFakeClock } from '../support/fake-clock.ts'

/* The worker's side between a stack of the test and a main thread of the test. */

const engineId = 70
let sockets: StackSockets
let said: { readonly socket: number; readonly news: StackNews }[]
/** What the stack was asked for. */
let asked: string[]
/** Bytes that wait in the stack, and bytes it takes; datagrams that wait. */
let incoming: number
let room: number
let datagrams: number
/** Calls whose outputs nobody has taken: the next one loses them. */
let undelivered: number
/** Outputs that were taken again: they leave twice. */
let redelivered: number

beforeEach(() => {
  said = []
  asked = []
  incoming = 0
  room = 1_000
  datagrams = 0
  undelivered = 0
  redelivered = 0
  const moved = <Result>(result: Result): Result => {
    undelivered++
    return result
  }
  const stack: EngineStack = {
    listenTcp: (port, listens) => void asked.push(`${listens ? '' : 'un'}listen ${port}`),
    connectTcp: ({ port }) => moved(port === 1 ? undefined : engineId),
    openUdp: (port) => (port === 1 ? undefined : engineId),
    openEcho: () => engineId,
    socketPort: () => 5_353,
    sendTcp(_socket, bytes) {
      const taken = Math.min(room, bytes.length)
      room -= taken
      return moved(taken)
    },
    receiveTcp(_socket, most) {
      const taken = Math.min(incoming, most, 65_536)
      incoming -= taken
      return moved(new Uint8Array(taken))
    },
    sendTo: (_socket, { address, port }) => moved(asked.push(`send ${address} ${port}`) > 0),
    receiveFrom() {
      if (datagrams === 0) return undefined
      datagrams--
      return { address: '10.0.0.2', port: 9, bytes: new Uint8Array(3) }
    },
    endTcp: () => moved(void asked.push('end')),
    release: (_socket, breaks) => moved(void asked.push(breaks ? 'break' : 'release')),
    socketEvents: () => [],
  }
  const deliver = () => {
    if (undelivered === 0) redelivered++
    undelivered = 0
  }
  sockets = new StackSockets({
    ...{ engine: { stack }, pump: { deliver }, clock: createFakeClock() },
    say: (socket, news) => void said.push({ socket, news }),
  })
})

const act = (command: StackCommand) => sockets.handle(command)
const hear = (news: number, more: Partial<SocketEvent> = {}) =>
  sockets.tell([{ socket: engineId, news, port: 0, remote: undefined, ...more }])
const names = () => said.map(({ socket, news }) => `${socket} ${news.news}`)
const sum = (kind: 'data' | 'wrote') =>
  said.reduce((total, { news }) => {
    if (news.news !== kind) return total
    return total + (news.news === 'data' ? news.bytes.length : news.news === 'wrote' ? news.count : 0)
  }, 0)
const write = (count: number) => act({ act: 'write', socket: 3, bytes: new Uint8Array(count) })

describe('StackSockets, of a connection', () => {
  beforeEach(() => {
    act({ act: 'connect', socket: 3, to: { address: '10.0.0.2', port: 80 } })
    hear(socketNews.connected)
    said = []
  })

  test('writes what the stack takes, says so, and goes on when there is room again', () => {
    write(600)
    write(600)
    expect(sum('wrote')).toBe(1_000)
    room = 500
    hear(socketNews.writable)
    expect(sum('wrote')).toBe(1_200)
  })

  test('ends behind the last byte and not before', () => {
    write(1_500)
    act({ act: 'end', socket: 3 })
    expect(asked).toEqual([])
    room = 1_000
    hear(socketNews.writable)
    expect(asked).toEqual(['end'])
  })

  test('that is released keeps what was written until the stack has it; one that is broken off does not', () => {
    write(1_500)
    act({ act: 'release', socket: 3, breaks: false })
    expect(asked).toEqual([])
    room = 1_000
    hear(socketNews.writable)
    expect(asked).toEqual(['release'])
    act({ act: 'connect', socket: 3, to: { address: '10.0.0.2', port: 80 } })
    room = 0
    write(1_500)
    act({ act: 'release', socket: 3, breaks: true })
    expect(asked).toEqual(['release', 'break'])
  })

  test.each(['reset', 'lost'] as const)('that is released and then %s is forgotten with what it still had', (news) => {
    write(1_500)
    act({ act: 'release', socket: 3, breaks: false })
    hear(socketNews[news])
    expect(asked).toEqual(['break'])
  })

  test('hands over no more than the window, and the rest as it is taken', () => {
    incoming = 1_000_000
    hear(socketNews.readable)
    expect(sum('data')).toBe(streamWindowBytes)
    act({ act: 'taken', socket: 3, count: 100_000 })
    expect(sum('data')).toBe(streamWindowBytes + 100_000)
    for (let left = 1_000_000; left > 0; left -= 50_000) act({ act: 'taken', socket: 3, count: 50_000 })
    expect(sum('data')).toBe(1_000_000)
  })

  test('takes the outputs of every call, also of one that gave nothing', () => {
    hear(socketNews.readable)
    expect(undelivered).toBe(0)
    write(0)
    write(10)
    act({ act: 'end', socket: 3 })
    act({ act: 'release', socket: 3, breaks: true })
    expect(undelivered).toBe(0)
  })

  test('says its end once, and what broke it', () => {
    hear(socketNews.ended)
    hear(socketNews.ended)
    hear(socketNews.reset)
    expect(names()).toEqual(['3 ended', '3 reset'])
  })
})

test('StackSockets gives a connection of a peer a number below zero, and passes over news of nobody', () => {
  hear(socketNews.readable)
  hear(socketNews.accepted)
  expect(said).toEqual([])
  hear(socketNews.accepted | socketNews.writable, { port: 80, remote: { address: '10.0.0.9', port: 5 } })
  sockets.tell([{ socket: 71, news: socketNews.accepted, port: 81, remote: { address: '10.0.0.9', port: 6 } }])
  expect(said).toEqual([
    { socket: -1, news: { news: 'accepted', port: 80, remote: { address: '10.0.0.9', port: 5 } } },
    { socket: -2, news: { news: 'accepted', port: 81, remote: { address: '10.0.0.9', port: 6 } } },
  ])
})

test.each<StackCommand>([
  { act: 'connect', socket: 3, to: { address: '10.0.0.2', port: 80 } },
  { act: 'connect', socket: 3, to: { address: '10.0.0.2', port: 1 } },
  { act: 'listen', port: 80, listens: true },
  { act: 'udp', socket: 3, port: 0 },
  { act: 'udp', socket: 3, port: 1 },
  { act: 'echo', socket: 3 },
])('StackSockets takes the outputs of a call once, and none where nothing moved (%j)', (command) => {
  act(command)
  datagrams = 3
  hear(socketNews.readable)
  act({ act: 'taken', socket: 3, count: 1 })
  act({ act: 'send', socket: 3, to: { address: '10.0.0.2', port: 53 }, bytes: new Uint8Array(1) })
  act({ act: 'release', socket: 3, breaks: true })
  expect({ undelivered, redelivered }).toEqual({ undelivered: 0, redelivered: 0 })
})

test.each<[string, StackCommand]>([
  ['a connection', { act: 'connect', socket: 3, to: { address: '10.0.0.2', port: 1 } }],
  ['a socket for datagrams', { act: 'udp', socket: 3, port: 1 }],
])('StackSockets says that %s is refused', (_name, command) => {
  act(command)
  expect(said).toEqual([{ socket: 3, news: { news: 'refused' } }])
})

test('StackSockets hands over datagrams up to a window; the stack loses the rest', () => {
  act({ act: 'udp', socket: 3, port: 0 })
  expect(said).toEqual([{ socket: 3, news: { news: 'open', port: 5_353 } }])
  datagrams = 1_000
  hear(socketNews.readable)
  expect(names().filter((name) => name === '3 datagram')).toHaveLength(datagramWindow)
  act({ act: 'taken', socket: 3, count: 10 })
  expect(names().filter((name) => name === '3 datagram')).toHaveLength(datagramWindow + 10)
  act({ act: 'send', socket: 3, to: { address: '10.0.0.2', port: 53 }, bytes: new Uint8Array(1) })
  expect(asked).toEqual(['send 10.0.0.2 53'])
})

test('StackSockets does nothing for a socket that is gone', () => {
  write(10)
  act({ act: 'end', socket: 3 })
  act({ act: 'taken', socket: 3, count: 1 })
  act({ act: 'release', socket: 3, breaks: true })
  expect([asked, said]).toEqual([[], []])
})
