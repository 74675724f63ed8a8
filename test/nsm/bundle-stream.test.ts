import { setTimeout as pause } from 'node:timers/promises'
import { afterEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { verifyCsr } from '../../src/identity/csr.ts'
import { openEphemeral } from '../../src/identity/enrolled.ts'
import type { JwtBundles } from '../../src/identity/jwt-bundles.ts'
import type { TrustBundles } from '../../src/identity/source.ts'
import { followBundles, tellBundles } from '../../src/nsm/bundle-stream.ts'
import { openChannel } from '../../src/nsm/channel.ts'
import { watchBundles } from '../../src/nsm/exchange.ts'
import { identityService } from '../../src/nsm/exchange-server.ts'
import { openJoinTokens } from '../../src/nsm/join-tokens.ts'
import { startNsmServer } from '../../src/nsm/server.ts'
import { decodeBundles } from '../../src/nsm/svid-encoding.ts'
import { TestMesh } from './mesh.ts'

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

const { authority } = new TestMesh('a.test')
const federated: TrustBundles = new Map([...authority.bundles, ...new TestMesh('b.test').authority.bundles])

/** Bundles that the test changes. */
function believed(first: TrustBundles) {
  let bundles = first
  let jwtBundles: JwtBundles = new Map()
  const listeners = new Set<() => void>()
  return {
    bundles: () => bundles,
    jwtBundles: () => jwtBundles,
    onChange(listener: () => void) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    set(next: TrustBundles, keys = jwtBundles) {
      bundles = next
      jwtBundles = keys
      for (const listener of listeners) listener()
    },
    listeners,
  }
}

describe('tellBundles', () => {
  test('tells what is believed, each change of it, and nothing that is as it was', async () => {
    const source = believed(authority.bundles)
    const stop = new AbortController()
    const told: string[][] = []
    const telling = (async () => {
      for await (const { bundles } of tellBundles(source, stop.signal)) told.push([...decodeBundles(bundles).keys()])
    })()
    await expect.poll(() => told).toEqual([['a.test']])
    source.set(new Map(authority.bundles))
    source.set(federated)
    await expect.poll(() => told).toEqual([['a.test'], ['a.test', 'b.test']])
    source.set(authority.bundles)
    await expect.poll(() => told.length).toBe(3)
    stop.abort()
    await telling
    expect(source.listeners.size).toBe(0)
  })

  test('tells only the last of many changes that come at once', async () => {
    const source = believed(authority.bundles)
    const stop = new AbortController()
    const stream = tellBundles(source, stop.signal)
    await stream.next()
    const next = stream.next()
    for (const bundles of [federated, authority.bundles, federated]) source.set(bundles)
    expect([...decodeBundles((await next).value?.bundles ?? {}).keys()]).toEqual(['a.test', 'b.test'])
    stop.abort()
    expect((await stream.next()).done).toBe(true)
  })

  test('listens no longer when its reader leaves', async () => {
    const source = believed(authority.bundles)
    for await (const _ of tellBundles(source, new AbortController().signal)) break
    expect(source.listeners.size).toBe(0)
  })
})

describe('followBundles', () => {
  async function member(mesh: TestMesh, serverSource = mesh.source('/server')) {
    const joinTokens = openJoinTokens(':memory:')
    closers.push(
      () => mesh.close(),
      () => joinTokens.close(),
    )
    const trust = { ...believed(mesh.authority.bundles) }
    const { trustDomain, issueForKey, issueJwt } = mesh.authority
    const serving = {
      ...{ trustDomain, issueForKey, issueJwt, onChange: trust.onChange },
      get bundles() {
        return trust.bundles()
      },
      get jwtBundles() {
        return mesh.authority.jwtBundles
      },
    }
    const services = identityService({ authority: serving, joinTokens, clock: systemClock, log: silentLog })
    const server = await mesh.serve(services, serverSource)
    const spiffeId = `spiffe://${trustDomain}/member/anna`
    let renewals = 0
    const exchange = async (csr: Uint8Array) => {
      renewals++
      return issueForKey({ ...verifyCsr(csr), spiffeId, ttlMs: 3_600_000 })
    }
    const around = { clock: systemClock, log: silentLog, jitter: () => 0 }
    const source = await openEphemeral({ ...around, serverUrl: 'x', exchange, renew: exchange })
    closers.push(() => source.close())
    const channel = openChannel({ target: server, source, clock: systemClock })
    closers.push(() => channel.close())
    const following = followBundles({ channel, source, ...around })
    closers.push(() => following.close())
    return { trust, source, server, services, renewals: () => renewals }
  }

  test('keeps what the server believes, and renews at once under a root that signs anew', async () => {
    const mesh = new TestMesh('a.test')
    const { trust, source, renewals } = await member(mesh)
    const roots = () => source.current().bundles.get('a.test')?.length
    trust.set(new Map([...mesh.authority.bundles, ...new TestMesh('b.test').authority.bundles]))
    await expect.poll(() => source.current().bundles.has('b.test')).toBe(true)
    await mesh.authority.rotation.begin(0)
    trust.set(mesh.authority.bundles)
    await expect.poll(roots).toBe(2)
    expect(source.current().bundles.has('b.test')).toBe(false)
    expect(renewals()).toBe(1)
    await expect.poll(() => mesh.authority.rotation.view().phase).toBe('issuing')
    trust.set(mesh.authority.bundles)
    await expect.poll(renewals).toBe(2)
  })

  test('opens the stream again when the server ends it', async () => {
    const mesh = new TestMesh('a.test')
    const serverSource = mesh.source('/server')
    const { trust, source, server, services } = await member(mesh, serverSource)
    await expect.poll(() => trust.listeners.size).toBe(1)
    await server.stop()
    trust.set(new Map([...mesh.authority.bundles, ...new TestMesh('b.test').authority.bundles]))
    const { address, port } = server
    const listen = { address, port }
    const again = await startNsmServer({ source: serverSource, listen, services, clock: systemClock, log: silentLog })
    closers.push(() => again.stop())
    await expect.poll(() => source.current().bundles.has('b.test')).toBe(true)
  })

  test('an end of the own domain is not taken from the stream', async () => {
    const mesh = new TestMesh('a.test')
    const { trust, source } = await member(mesh)
    trust.set(new Map(new TestMesh('b.test').authority.bundles))
    await pause(100)
    expect([...source.current().bundles.keys()]).toEqual(['a.test'])
  })
})

test('any believed peer may watch the bundles, each change comes over the wire', async () => {
  const mesh = new TestMesh('a.test')
  const joinTokens = openJoinTokens(':memory:')
  closers.push(
    () => mesh.close(),
    () => joinTokens.close(),
  )
  const services = identityService({ authority: mesh.authority, joinTokens, clock: systemClock, log: silentLog })
  const channel = mesh.channel(await mesh.serve(services))
  const counts: (number | undefined)[] = []
  for await (const { bundles } of watchBundles(channel)) {
    counts.push(bundles.get('a.test')?.length)
    if (counts.length === 2) break
    await mesh.authority.rotation.begin()
  }
  expect(counts).toEqual([1, 2])
})
