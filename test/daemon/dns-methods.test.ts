import { afterEach, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { createDnsApi } from '../../src/daemon/dns-methods.ts'
import { type Dns, openDns } from '../../src/dns/dns.ts'
import { askUdp, questionBytes } from '../support/dns-client.ts'
import { DnsUpstream, scripts } from '../support/dns-upstream.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const { signal } = new AbortController()
const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

async function open(): Promise<Dns> {
  const host = await DnsUpstream.open(scripts.answering('10.0.0.1'))
  const listen = [{ address: '127.0.0.1', port: 0 }]
  const dns = await openDns({ clock: createFakeClock(), log: silentLog, listen, defaultUpstreams: [host.target] })
  closers.push(
    () => dns.close(),
    () => host.close(),
  )
  return dns
}

describe('the DNS side of the background process', () => {
  test('without a resolver shows none, forgets nothing and cannot trace', async () => {
    const api = createDnsApi({ resolver: () => undefined, status: () => undefined })
    expect(await api.dnsStatus()).toEqual({ apiVersion: 'nsm/dns-status/v1' })
    expect(await api.dnsFlush()).toEqual({ apiVersion: 'nsm/dns-flush/v1', forgotten: 0 })
    await expect(api.dnsTrace({ name: 'a.b', type: 'A' }, signal)).rejects.toMatchObject({ code: 'NOT_READY' })
  })

  test('tells of the resolver that runs, and forgets its cache', async () => {
    const dns = await open()
    const api = createDnsApi({ resolver: () => dns, status: () => ({ ...dns.status(), listening: '127.0.0.55:53' }) })
    await askUdp(dns.listening.port, questionBytes('a.example'))
    const { resolver } = await api.dnsStatus()
    expect(resolver).toMatchObject({ listening: '127.0.0.55:53', counters: { queries: 1 }, cache: { entries: 1 } })
    expect(await api.dnsFlush()).toMatchObject({ forgotten: 1 })
    expect((await api.dnsStatus()).resolver?.cache.entries).toBe(0)
    expect(await api.dnsTrace({ name: 'localhost', type: 'A' }, signal)).toMatchObject({
      apiVersion: 'nsm/dns-trace/v1',
      answeredBy: 'here',
    })
  })
})
