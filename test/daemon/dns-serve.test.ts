import { afterEach, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { queryDns } from '../../src/daemon/dns-query.ts'
import { type DnsServeHandle, type DnsServeSettings, startDnsServe } from '../../src/daemon/dns-serve.ts'
import { DnsUpstream, delayed, reply, type Script, scripts } from '../support/dns-upstream.ts'

const signal = new AbortController().signal
const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

async function upstream(script: Script): Promise<DnsUpstream> {
  const opened = await DnsUpstream.open(script)
  closers.push(() => opened.close())
  return opened
}

async function serve(settings: Omit<DnsServeSettings, 'listen'>): Promise<DnsServeHandle & { readonly port: number }> {
  const handle = await startDnsServe({ listen: { address: '127.0.0.1', port: 0 }, ...settings }, silentLog)
  closers.push(() => handle.stop())
  return { ...handle, port: Number(handle.listening.split(':')[1]) }
}

const question = (port: number, name: string, more: { type?: string; overTcp?: boolean } = {}) => ({
  server: { address: '127.0.0.1', port },
  name,
  type: more.type ?? 'A',
  overTcp: more.overTcp ?? false,
})
const listen = { address: '127.0.0.1', port: 0 }

describe('nsm dns serve', () => {
  test('answers names under its scopes and others, over UDP and TCP', async () => {
    const owner = await upstream(scripts.answering('10.0.0.1'))
    const host = await upstream(scripts.answering('10.0.0.2'))
    const scopes = [{ suffix: 'corp.example', mode: 'exclusive' as const, upstreams: [owner.target] }]
    const { port } = await serve({ defaults: [host.target], scopes })
    for (const overTcp of [false, true]) {
      const own = await queryDns(question(port, 'db.corp.example', { overTcp }), signal)
      expect(own).toMatchObject({ rcode: 'NOERROR', overTcp, answers: [{ data: '10.0.0.1', type: 'A' }] })
      expect((await queryDns(question(port, 'www.example', { overTcp }), signal)).answers).toMatchObject([
        { data: '10.0.0.2' },
      ])
    }
  })

  test('takes other settings over and answers what is under way as it was asked', async () => {
    const slow = await upstream(delayed(scripts.answering('10.0.0.1'), 150))
    const quick = await upstream(scripts.answering('10.0.0.2'))
    const scope = (target: DnsUpstream) => [
      { suffix: 'corp.example', mode: 'exclusive' as const, upstreams: [target.target] },
    ]
    const running = await serve({ defaults: [], scopes: scope(slow) })
    const before = Array.from({ length: 50 }, (_, i) => queryDns(question(running.port, `n${i}.corp.example`), signal))
    await slow.sawQuestions(50)
    running.reload({ listen, defaults: [], scopes: scope(quick) })
    const after = await queryDns(question(running.port, 'new.corp.example'), signal)
    expect(after.answers).toMatchObject([{ data: '10.0.0.2' }])
    for (const found of await Promise.all(before)) expect(found.answers).toMatchObject([{ data: '10.0.0.1' }])
  })

  test('refuses another listening address and scopes that cannot be, and keeps what it has', async () => {
    const owner = await upstream(scripts.answering('10.0.0.1'))
    const scopes = [{ suffix: 'corp.example', mode: 'fanout' as const, upstreams: [owner.target] }]
    const { reload, status } = await serve({ defaults: [], scopes })
    expect(() => reload({ listen: { address: '127.0.0.1', port: 9 }, defaults: [], scopes: [] })).toThrow(
      /cannot change/,
    )
    const bad = [{ suffix: 'a..b', mode: 'fanout' as const, upstreams: [] }]
    expect(() => reload({ listen, defaults: [], scopes: bad })).toThrow(/empty/)
    expect(status().scopes.map(({ suffix }) => suffix)).toEqual(['corp.example'])
  })

  test('leaves its port free when its first settings cannot be', async () => {
    const settings = { listen, defaults: [], scopes: [{ suffix: 'a..b', mode: 'fanout' as const, upstreams: [] }] }
    await expect(startDnsServe(settings, silentLog)).rejects.toMatchObject({ code: 'USAGE' })
  })

  test('says which program holds its port', async () => {
    const { port } = await serve({ defaults: [], scopes: [] })
    const again = startDnsServe({ listen: { address: '127.0.0.1', port }, defaults: [], scopes: [] }, silentLog)
    await expect(again).rejects.toMatchObject({ code: 'CONFLICT' })
  })
})

describe('queryDns', () => {
  test('fetches a truncated reply over TCP', async () => {
    const host = await upstream((asked) =>
      asked.overTcp ? scripts.answering('10.0.0.7')(asked) : [reply(asked, { flags: 0x380 })],
    )
    const found = await queryDns(question(host.target.port, 'a.example'), signal)
    expect(found).toMatchObject({ overTcp: true, answers: [{ data: '10.0.0.7' }] })
  })

  test('is UNREACHABLE where nobody listens', async () => {
    const gone = await DnsUpstream.open(scripts.silent)
    const { port } = gone.target
    await gone.close()
    const asked = queryDns(question(port, 'a.example'), signal)
    await expect(asked).rejects.toMatchObject({ code: 'UNREACHABLE' })
    const overTcp = queryDns(question(port, 'a.example', { overTcp: true }), signal)
    await expect(overTcp).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })

  test('is REFUSED by a reply that cannot be read', async () => {
    const host = await upstream((asked) => {
      const bytes = Buffer.concat([asked.raw.subarray(0, 12), Buffer.from('c0', 'hex')])
      bytes.writeUInt16BE(0x8180, 2)
      return [{ bytes }]
    })
    await expect(queryDns(question(host.target.port, 'a.example'), signal)).rejects.toMatchObject({ code: 'REFUSED' })
  })

  test('ends with the reason of its signal', async () => {
    const host = await upstream(scripts.silent)
    const stop = new AbortController()
    const asked = queryDns(question(host.target.port, 'a.example'), stop.signal)
    await host.sawQuestions(1)
    stop.abort(new TypeError('enough'))
    await expect(asked).rejects.toThrow('enough')
  })

  test.each(['a..b', 'x'.repeat(64)])('is a USAGE error for the name %s', async (name) => {
    await expect(queryDns(question(9, name), signal)).rejects.toMatchObject({ code: 'USAGE' })
  })
})
