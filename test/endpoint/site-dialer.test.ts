import { create } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { afterEach, describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { dialSites } from '../../src/endpoint/site-dialer.ts'
import type { SiteLink } from '../../src/endpoint/site-links.ts'
import type { SiteEnd } from '../../src/endpoint/vl3.ts'
import type { NsmClient } from '../../src/nsm/client.ts'
import { createEventQueue, type EventQueue } from '../../src/nsm/event-queue.ts'
import {
  type ConnectionEvent,
  ConnectionEventSchema,
  ConnectionEventType,
  ConnectionSchema,
} from '../../src/nsm/generated/connection_pb.js'
import { NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import { type NetworkServiceEndpoint, NetworkServiceEndpointSchema } from '../../src/nsm/generated/registry_pb.js'
import type { Found } from '../../src/registry/registry.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const stops: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const stop of stops.splice(0)) await stop()
})

const leaseMs = 600_000

/** The dialer of endpoint `m` with other endpoints that answer, unless their url is in `away`. */
function open() {
  const clock = createFakeClock()
  const links = new Map<string, SiteLink>()
  const happened: string[] = []
  const away = new Set<string>()
  const watchers: EventQueue<ConnectionEvent>[] = []
  const seen: EventQueue<Found<NetworkServiceEndpoint>>[] = []
  const linkOf = (name: string, connectionId: string): SiteLink => ({
    ...{ spiffeId: `spiffe://test.internal/site/${name}`, endpointName: name, connectionId, segmentId: connectionId },
    ...{ publicKey: name, gateways: [], nameServers: [], prefixes: [], underlay: undefined },
    expiresMs: clock.wallMs() + leaseMs,
  })
  const end: SiteEnd = {
    request: ({ endpointName, clientName, id }) =>
      create(NetworkServiceRequestSchema, {
        connection: {
          id,
          networkServiceEndpointName: endpointName,
          path: { pathSegments: [{ name: clientName, id }] },
        },
      }),
    async link({ networkServiceEndpointName: name, id }, { isFresh }) {
      const link = linkOf(name, id)
      links.set(name, link)
      happened.push(`${isFresh ? 'link anew' : 'link'} ${name}`)
      return link
    },
    async unlink(link, why) {
      if (links.get(link.endpointName)?.connectionId === link.connectionId) links.delete(link.endpointName)
      happened.push(`unlink ${link.endpointName}: ${why}`)
    },
    linkWith: (name) => links.get(name),
  }
  const clientOf = (url: string): NsmClient => ({
    async request({ connection }) {
      if (away.has(url)) throw new NsmError('UNREACHABLE', 'nobody is there', 'try again')
      const answer = create(ConnectionSchema, connection ?? {})
      for (const segment of answer.path?.pathSegments ?? []) segment.expires = timestampFromMs(clock.wallMs() + leaseMs)
      return answer
    },
    async close({ networkServiceEndpointName }) {
      happened.push(`close ${networkServiceEndpointName}`)
    },
    monitor(_selector, signal = new AbortController().signal) {
      const queue: EventQueue<ConnectionEvent> = createEventQueue([], { signal, onEnd() {} })
      watchers.push(queue)
      return queue.events
    },
  })
  const dialer = dialSites({
    ...{ end, ownName: 'm', address: undefined, clock, log: silentLog },
    watch(signal) {
      const queue: EventQueue<Found<NetworkServiceEndpoint>> = createEventQueue([], { signal, onEnd() {} })
      seen.push(queue)
      return queue.events
    },
    open: (url) => ({ client: clientOf(url), close() {} }),
  })
  stops.push(() => dialer.stop())
  const say = async (name: string, { deleted = false, url = `tcp://${name}` } = {}) => {
    seen[0]?.push({ entry: create(NetworkServiceEndpointSchema, { name, url }), deleted })
    await clock.advance(0)
  }
  return { clock, links, happened, away, watchers, say, stop: () => dialer.stop(), linkOf }
}

describe('dialSites', () => {
  test('dials an endpoint of a lesser name as soon as it is there, never itself', async () => {
    const { happened, say } = open()
    await say('m')
    await say('a')
    expect(happened).toEqual(['link a'])
  })

  test('refreshes the link every 15 s, along the same connection', async () => {
    const { clock, happened, links, say } = open()
    await say('a')
    const before = links.get('a')?.connectionId
    await clock.advance(15_000)
    expect(happened).toEqual(['link a', 'link a'])
    expect(links.get('a')?.connectionId).toBe(before)
  })

  test.each([
    ['the other side ends it', { type: ConnectionEventType.DELETE, connections: { x: {} } }],
    ['the stream breaks', undefined],
  ] as const)('links anew at once when %s', async (_what, event) => {
    const { clock, happened, watchers, say } = open()
    await say('a')
    if (event) watchers[0]?.push(create(ConnectionEventSchema, event))
    else watchers[0]?.end()
    await clock.advance(0)
    expect(happened).toEqual(['link a', 'link anew a'])
  })

  test('tries again with growing pauses while nobody answers, then links', async () => {
    const { clock, happened, away, say } = open()
    away.add('tcp://a')
    await say('a')
    await clock.advance(10_000)
    expect(happened).toEqual([])
    away.clear()
    await clock.advance(5_000)
    expect(happened).toEqual(['link anew a'])
  })

  test('follows an endpoint that has moved', async () => {
    const { clock, happened, away, watchers, say } = open()
    await say('a')
    away.add('tcp://a')
    await say('a', { url: 'tcp://elsewhere' })
    watchers[0]?.end()
    await clock.advance(300)
    expect(happened).toEqual(['link a', 'link anew a'])
  })

  test('an endpoint that is gone from the registry is kept as long as it answers', async () => {
    const { clock, happened, away, watchers, say } = open()
    await say('a')
    await say('a', { deleted: true })
    await clock.advance(30_000)
    expect(happened).toEqual(['link a', 'link a', 'link a'])
    away.add('tcp://a')
    watchers.at(-1)?.end()
    await clock.advance(0)
    expect(happened.at(-1)).toBe('unlink a: gone')
  })

  test('leaves it to an endpoint of a greater name to dial', async () => {
    const { clock, happened, links, linkOf, say } = open()
    await say('z')
    links.set('z', linkOf('z', 'their-connection'))
    await clock.advance(60_000)
    expect(happened).toEqual([])
  })

  test('dials one of a greater name when it has not linked us, and stops as soon as it does', async () => {
    const { clock, happened, links, linkOf, say } = open()
    await say('z')
    await clock.advance(4_999)
    expect(happened).toEqual([])
    await clock.advance(1)
    expect(happened).toEqual(['link z'])
    links.set('z', linkOf('z', 'their-connection'))
    await clock.advance(60_000)
    expect(happened).toEqual(['link z', 'close z'])
    expect(links.get('z')?.connectionId).toBe('their-connection')
  })

  test('dials one of a greater name again when the link that we made is lost', async () => {
    const { clock, happened, watchers, say } = open()
    await say('z')
    await clock.advance(5_000)
    watchers.at(-1)?.end()
    await clock.advance(0)
    expect(happened).toEqual(['link z', 'link anew z'])
  })

  test('one of a greater name that is gone before its turn is not dialed', async () => {
    const { clock, happened, say } = open()
    await say('z')
    await say('z', { deleted: true })
    await clock.advance(60_000)
    expect(happened).toEqual([])
    expect(clock.waiting).toBe(0)
  })

  test('closes its links at the other side when it stops, and takes them down here', async () => {
    const { clock, happened, say, stop } = open()
    await say('a')
    await say('b')
    await stop()
    expect(happened.slice(2).toSorted()).toEqual(['close a', 'close b', 'unlink a: closed', 'unlink b: closed'])
    expect(clock.waiting).toBe(0)
  })
})
