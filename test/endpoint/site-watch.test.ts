import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseAddress } from '../../src/base/ip.ts'
import type { Log } from '../../src/base/log.ts'
import { silentLog } from '../../src/base/log.ts'
import { type Presence, SiteWatch, type WatchedSite } from '../../src/endpoint/site-watch.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { openFakeHub } from '../support/fake-hub.ts'

const keyOf = (fill: number) => Buffer.alloc(32, fill).toString('base64')
const lookMs = 1_000

function siteOf(fill: number, gateway: string): WatchedSite {
  return { spiffeId: `spiffe://test.internal/site/${fill}`, publicKey: keyOf(fill), gateways: [gateway] }
}

async function open(sites: readonly WatchedSite[]) {
  const clock = createFakeClock()
  const said: string[] = []
  const say = (sentence: string) => void said.push(sentence)
  const log: Log = { ...silentLog, warn: say, info: say }
  const hub = openFakeHub({
    ...{ privateKey: new Uint8Array(32), listenAddress: '::', listenPort: 0, gateways: [], localUdpPorts: [] },
    onLocalPacket() {},
  })
  for (const { publicKey } of sites) {
    await hub.setPeer({ publicKey: Buffer.from(publicKey, 'base64'), keepaliveSeconds: 0, allowedPrefixes: [] })
  }
  const present = [...sites]
  const gateways = ['10.64.0.0', 'fd64::'].map(parseAddress)
  const watch = new SiteWatch({ hub, sites: () => present, gateways, clock, log })
  watch.begin()
  let bytes = 0
  const hear = (site: WatchedSite) => void hub.received.set(site.publicKey, ++bytes)
  return { clock, hub, watch, said, present, hear }
}

const west = siteOf(1, '10.64.1.0')
const north = siteOf(2, 'fd64:2::')

describe('SiteWatch', () => {
  test('asks each site by an echo request of its family, once a second', async () => {
    const { clock, hub } = await open([west, north])
    await clock.advance(2 * lookMs)
    const destinations = hub.sent.map((packet) =>
      (packet[0] ?? 0) >> 4 === 4 ? [...packet.subarray(16, 20)].join('.') : packet.subarray(24, 30).join(','),
    )
    const ofNorth = [...Buffer.from('fd6400020000', 'hex')].join()
    expect(destinations).toEqual(['10.64.1.0', ofNorth, '10.64.1.0', ofNorth])
  })

  test('a site from which nothing comes is silent after three looks more and gone after fifteen', async () => {
    const { clock, watch, said } = await open([west])
    const seen: Presence[] = []
    for (let look = 0; look < 17; look++) {
      await clock.advance(lookMs)
      seen.push(watch.presenceOf(west.publicKey))
    }
    expect(seen).toEqual([...Array(3).fill('live'), ...Array(12).fill('silent'), 'gone', 'gone'])
    expect(said).toEqual(['a site is silent'])
  })

  test('a silent site is shaken hands with every five looks, one wait at a time, until it is heard', async () => {
    const { clock, hub, hear } = await open([west, north])
    const handshakes = () => hub.calls.filter((call) => call === `handshake ${west.publicKey}`).length
    const signals: AbortSignal[] = []
    const { handshake } = hub
    hub.handshake = (publicKey, signal) => {
      if (Buffer.from(publicKey).toString('base64') === west.publicKey) signals.push(signal)
      return handshake(publicKey, signal)
    }
    const look = async () => {
      hear(north)
      await clock.advance(lookMs)
      return handshakes()
    }
    const seen: number[] = []
    for (let looks = 0; looks < 15; looks++) seen.push(await look())
    expect(seen).toEqual([0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3])
    expect(signals.map(({ aborted }) => aborted)).toEqual([true, true, false])
    hear(west)
    for (let looks = 0; looks < 3; looks++) expect(await look()).toBe(3)
    expect(hub.calls).not.toContain(`handshake ${north.publicKey}`)
  })

  test('one packet of a site that was gone makes it live', async () => {
    const { clock, watch, said, hear } = await open([west])
    await clock.advance(20 * lookMs)
    hear(west)
    await clock.advance(lookMs)
    expect(watch.presenceOf(west.publicKey)).toBe('live')
    expect(said).toEqual(['a site is silent', 'a site is heard again'])
  })

  test('a process that was held up for a minute finds what came meanwhile', async () => {
    const { clock, hub, watch, hear } = await open([west])
    await clock.advance(lookMs)
    const stats = hub.stats
    let release = () => {}
    hub.stats = () =>
      new Promise((resolve) => {
        release = () => resolve(stats())
      })
    await clock.advance(60 * lookMs)
    hear(west)
    release()
    hub.stats = stats
    await clock.advance(0)
    expect(watch.presenceOf(west.publicKey)).toBe('live')
  })

  test('a hub that fails for a moment does not end the watch', async () => {
    const { clock, hub, watch } = await open([west])
    const stats = hub.stats
    hub.stats = () => Promise.reject(new Error('the worker is busy'))
    await clock.advance(lookMs)
    hub.stats = stats
    await clock.advance(4 * lookMs)
    expect(watch.presenceOf(west.publicKey)).toBe('silent')
  })

  test('ends when it is stopped, also during a look, and when there is no site', async () => {
    const stopped = await open([west])
    stopped.watch.stop()
    stopped.watch.begin()
    expect(stopped.clock.waiting).toBe(0)
    const empty = await open([])
    await empty.clock.advance(lookMs)
    expect(empty.clock.waiting).toBe(0)
    const during = await open([west])
    const looked = during.clock.advance(lookMs)
    during.watch.stop()
    await looked
    expect(during.clock.waiting).toBe(0)
    const silent = await open([west])
    let waited: AbortSignal | undefined
    silent.hub.handshake = (_publicKey, signal) => {
      waited = signal
      return new Promise(() => {})
    }
    await silent.clock.advance(4 * lookMs)
    expect(waited?.aborted).toBe(false)
    silent.watch.stop()
    expect(waited?.aborted).toBe(true)
  })

  test('the presence follows the looks since the last packet, whatever comes when (random walk)', async () => {
    const walk = fc.array(fc.record({ west: fc.boolean(), north: fc.boolean() }), { maxLength: 60 })
    await fc.assert(
      fc.asyncProperty(walk, async (steps) => {
        const { clock, watch, hear } = await open([west, north])
        await clock.advance(lookMs)
        const missed = { west: 0, north: 0 }
        for (const step of steps) {
          if (step.west) hear(west)
          if (step.north) hear(north)
          missed.west = step.west ? 0 : missed.west + 1
          missed.north = step.north ? 0 : missed.north + 1
          await clock.advance(lookMs)
          expect(watch.presenceOf(west.publicKey)).toBe(expected(missed.west))
          expect(watch.presenceOf(north.publicKey)).toBe(expected(missed.north))
        }
        watch.stop()
      }),
      { numRuns: 30 },
    )
  })
})

function expected(missed: number): Presence {
  if (missed >= 15) return 'gone'
  return missed >= 3 ? 'silent' : 'live'
}
