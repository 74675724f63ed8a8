import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { formatPrefix, parsePrefix } from '../../src/base/ip.ts'
import { silentLog } from '../../src/base/log.ts'
import { holdPrefixes } from '../../src/endpoint/ipam-client.ts'
import { ipamService } from '../../src/endpoint/ipam-server.ts'
import { openPrefixAuthority, siteRestMs } from '../../src/endpoint/prefix-authority.ts'
import { createEventQueue } from '../../src/nsm/event-queue.ts'
import { IPAM, Type } from '../../src/nsm/generated/ipam_pb.js'
import { FakeClock, TestMesh } from '../nsm/mesh.ts'
import { scratchDir } from '../support/scratch.ts'

const open: (() => unknown)[] = []
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close()
})

/** The prefix service over real gRPC; the same path again is a restart. */
async function start(path: string, mesh = new TestMesh('test.internal', new FakeClock())) {
  const { clock } = mesh
  open.push(() => mesh.close())
  const prefixes = [parsePrefix('10.64.0.0/22'), parsePrefix('fd70::/64')] as const
  const authority = openPrefixAuthority({ path, prefixes, siteLength: 24, clock, log: silentLog })
  const isSite = (spiffeId: string) => spiffeId.startsWith('spiffe://test.internal/site/')
  const server = await mesh.serve(ipamService({ authority, isSite }))
  const channelOf = (id: string) => mesh.channel(server, mesh.source(id))
  const stop = async () => {
    await server.stop()
    authority.close()
  }
  return { mesh, clock, authority, prefixes, isSite, server, channelOf, stop }
}

type Message = { type: Type; prefix?: string; excludePrefixes?: string[] }

/** One raw stream: `ask` sends and reads one answer, `tell` only sends. */
function rawStream(channel: ReturnType<TestMesh['channel']>) {
  const over = new AbortController()
  const requests = createEventQueue<Message>([], { signal: over.signal, onEnd() {} })
  const answers = channel.duplex(IPAM.method.managePrefixes, requests.events, { signal: over.signal })
  return {
    async ask(message: Message) {
      requests.push(message)
      const { value } = await answers.next()
      return value
    },
    tell: (message: Message) => requests.push(message),
    async end() {
      requests.end()
      await answers.next().catch(() => {})
    },
  }
}

const pathIn = async () => join(await scratchDir(), 'prefixes.db')
const allocate = { type: Type.ALLOCATE }
const onlyIpv4 = { ...allocate, excludePrefixes: ['fd70::/64'] }

describe('IPAM service', () => {
  test('answers ALLOCATE with a prefix and the excluded ones, and avoids them', async () => {
    const { channelOf } = await start(await pathIn())
    const stream = rawStream(channelOf('/site/west'))
    expect(await stream.ask(allocate)).toMatchObject({ prefix: '10.64.0.0/24', excludePrefixes: [] })
    const excludePrefixes = ['10.64.1.0/24', 'fd70::/64']
    expect(await stream.ask({ ...allocate, excludePrefixes })).toMatchObject({
      prefix: '10.64.2.0/24',
      excludePrefixes,
    })
    expect(await stream.ask({ ...allocate, prefix: '10.64.3.0/24' })).toMatchObject({ prefix: '10.64.3.0/24' })
  })

  test('an endpoint of NSM, which asks over one stream for each family, gets both', async () => {
    const { channelOf } = await start(await pathIn())
    const [first, second] = [rawStream(channelOf('/site/west')), rawStream(channelOf('/site/west'))]
    expect((await first.ask(allocate))?.prefix).toBe('10.64.0.0/24')
    expect((await second.ask(allocate))?.prefix).toBe('fd70::/80')
  })

  test('DELETE frees at once what this stream was given, and nothing else', async () => {
    const { channelOf, authority } = await start(await pathIn())
    const [west, east] = [rawStream(channelOf('/site/west')), rawStream(channelOf('/site/east'))]
    expect((await west.ask(allocate))?.prefix).toBe('10.64.0.0/24')
    east.tell({ type: Type.DELETE, prefix: '10.64.0.0/24' })
    expect((await east.ask(allocate))?.prefix).toBe('10.64.1.0/24')
    west.tell({ type: Type.DELETE, prefix: '10.64.0.0/24' })
    expect((await west.ask(allocate))?.prefix).toBe('10.64.0.0/24')
    expect(authority.ownerOf(parsePrefix('10.64.1.0/24'))).toBe('spiffe://test.internal/site/east')
  })

  test('the end of a stream keeps its prefixes for its site until the grace is over', async () => {
    const { channelOf, mesh } = await start(await pathIn())
    const stream = rawStream(channelOf('/site/west'))
    await stream.ask(onlyIpv4)
    await stream.end()
    const other = rawStream(channelOf('/site/east'))
    expect((await other.ask(onlyIpv4))?.prefix).toBe('10.64.1.0/24')
    const again = rawStream(channelOf('/site/west'))
    expect((await again.ask(allocate))?.prefix).toBe('10.64.0.0/24')
    expect(mesh.clock.wallMs()).toBeGreaterThan(0)
  })

  test('a second stream of a site takes its prefix over: the end of the first one does not release it', async () => {
    const { channelOf, authority } = await start(await pathIn())
    const [first, second] = [rawStream(channelOf('/site/west')), rawStream(channelOf('/site/west'))]
    const prefix = (await first.ask(allocate))?.prefix ?? ''
    expect((await second.ask({ ...allocate, prefix }))?.prefix).toBe(prefix)
    await first.end()
    expect((await second.ask(onlyIpv4))?.prefix).toBe('10.64.1.0/24')
    expect(authority.partsOf('spiffe://test.internal/site/west').length).toBe(2)
  })

  test('a stream that is cut, not ended, releases what it was given', async () => {
    const { mesh, authority, isSite } = await start(await pathIn())
    const ended = new Promise<void>((resolve) => {
      const open = (owner: string) => {
        const stay = authority.open(owner)
        return { ...stay, end: () => resolve(stay.end()) }
      }
      void mesh.serve(ipamService({ authority: { ...authority, open }, isSite })).then(async (server) => {
        const channel = mesh.channel(server, mesh.source('/site/west'))
        await rawStream(channel).ask(allocate)
        channel.close()
      })
    })
    await ended
  })

  test('refuses an undefined type, a prefix that is none and whoever is no site', async () => {
    const { channelOf } = await start(await pathIn())
    for (const [id, message] of [
      ['/site/west', { type: Type.UNDEFINED }],
      ['/site/west', { ...allocate, prefix: 'nonsense' }],
      ['/laptop', allocate],
    ] as const) {
      await expect(rawStream(channelOf(id)).ask(message)).rejects.toMatchObject({ code: expect.any(String) })
    }
  })

  test('says CONFLICT when nothing is left', async () => {
    const { channelOf } = await start(await pathIn())
    const stream = rawStream(channelOf('/site/west'))
    await expect(stream.ask({ ...allocate, excludePrefixes: ['0.0.0.0/0', '::/0'] })).rejects.toMatchObject({
      code: 'CONFLICT',
    })
  })
})

describe('PrefixAuthority', () => {
  test('remembers over a restart who has what, and gives it to another only after the grace', async () => {
    const path = await pathIn()
    const clock = new FakeClock()
    const settings = { path, prefixes: [parsePrefix('10.64.0.0/23')], siteLength: 24, clock, log: silentLog }
    const first = openPrefixAuthority(settings)
    const mine = first.open('a').take({ excluded: [] })
    first.close()
    const second = openPrefixAuthority(settings)
    expect(second.ownerOf(mine)).toBe('a')
    expect(formatPrefix(second.open('b').take({ excluded: [] }))).toBe('10.64.1.0/24')
    expect(() => second.open('c').take({ excluded: [] })).toThrowError(expect.objectContaining({ code: 'CONFLICT' }))
    clock.advance(siteRestMs)
    expect(second.open('c').take({ excluded: [] })).toEqual(mine)
    second.close()
  })
})

describe('holdPrefixes', () => {
  test('takes one of each family and holds both again when the service has started anew', async () => {
    const path = await pathIn()
    const one = await start(path, new TestMesh())
    const { mesh, prefixes } = one
    const source = mesh.source('/site/west')
    const target = { address: one.server.address, port: one.server.port }
    const channel = mesh.channel(target, source)
    const held = holdPrefixes({ channel, wholes: prefixes, held: [], clock: mesh.clock, log: silentLog })
    open.push(() => held.close())
    const taken = [await held.take(prefixes[0]), await held.take(prefixes[1])].map(formatPrefix)
    expect(taken).toEqual(['10.64.0.0/24', 'fd70::/80'])
    await held.close()
    await one.stop()
    const two = await start(path, mesh)
    const again = holdPrefixes({
      channel: two.channelOf('/site/west'),
      wholes: prefixes,
      held: taken.map(parsePrefix),
      clock: mesh.clock,
      log: silentLog,
    })
    open.push(() => again.close())
    const more = await again.take(one.prefixes[0])
    expect(formatPrefix(more)).toBe('10.64.1.0/24')
    expect(two.authority.partsOf('spiffe://test.internal/site/west').map(formatPrefix)).toEqual([
      ...taken,
      '10.64.1.0/24',
    ])
  })

  test('says so when a prefix in use was given to somebody else', async () => {
    const { mesh, prefixes, channelOf, authority } = await start(await pathIn(), new TestMesh())
    authority.open('spiffe://test.internal/site/east').take({ wanted: parsePrefix('10.64.0.0/24'), excluded: [] })
    const held = holdPrefixes({
      channel: channelOf('/site/west'),
      wholes: prefixes,
      held: [parsePrefix('10.64.0.0/24')],
      clock: mesh.clock,
      log: silentLog,
    })
    open.push(() => held.close())
    expect(await held.lost).toMatchObject({ code: 'LOST', message: expect.stringContaining('10.64.0.0/24') })
  })
})
