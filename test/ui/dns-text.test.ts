import { describe, expect, test } from 'vitest'
import type { DnsQueryResult, DnsStatusResult, DnsTraceResult } from '../../src/daemon/dns-protocol.ts'
import { dnsQueryText, dnsTraceText } from '../../src/ui/dns-answer-text.ts'
import { dnsServeText } from '../../src/ui/dns-serve-text.ts'
import { dnsStatusText } from '../../src/ui/dns-status-text.ts'
import { dnsAnswer, dnsStatus, dnsTrace } from '../commands/fake-dns.ts'

describe('dnsTraceText', () => {
  test('says when nobody was asked, and shows no race', () => {
    const here: DnsTraceResult = {
      ...dnsTrace,
      answeredBy: 'here',
      inCache: false,
      hops: [],
      answer: { rcode: 'REFUSED', flags: ['qr'], answers: [], authority: [], extendedError: 21 },
    }
    expect(dnsTraceText(here).split('\n')).toEqual([
      'db.corp.example A: REFUSED, extended error 21 (qr) in 1.5 ms',
      '# answered here: this name or type is never asked elsewhere',
    ])
  })

  test('names the host as the judge of a name without a scope', () => {
    const [hop] = dnsTrace.hops
    const text = dnsTraceText({ ...dnsTrace, hops: hop ? [{ ...hop, scope: '' }] : [] })
    expect(text).toContain('db.corp.example  no scope, so the host decides, 1.5 ms')
  })

  test('lets no text of a server steer the terminal', () => {
    const [hop] = dnsTrace.hops
    const [first] = hop?.contestants ?? []
    const record = { name: 'x', type: 'TXT', ttlSeconds: 1, data: '"\u001b[2J\n# forged"' }
    const reply = { rcode: 'NOERROR', flags: [], answers: [record], authority: [] }
    const hops = hop && first ? [{ ...hop, contestants: [{ ...first, reply }] }] : []
    const lines = dnsTraceText({ ...dnsTrace, hops, answer: reply }).split('\n')
    expect(lines.filter((line) => line.startsWith('#'))).toEqual([
      '# programs get this answer from the cache at the moment',
    ])
    expect(lines.join('\n')).not.toContain('\u001b')
  })
})

test('dnsQueryText says that a name has no such record', () => {
  const empty: DnsQueryResult = { ...dnsAnswer, rcode: 'NOERROR', authority: [], overTcp: true }
  expect(dnsQueryText(empty)).toContain('# NOERROR, no such record, extended error 22 (qr ra); 127.0.0.55 over TCP')
})

test('dnsStatusText names the servers of scopes of the same price once, and no reply as such', () => {
  const { resolver } = dnsStatus
  if (!resolver) throw new TypeError('the double has a resolver')
  const [scope] = resolver.scopes
  const [upstream] = resolver.upstreams
  const scopes = scope ? [scope, { ...scope, suffix: '10.64.0.0/16' }] : []
  const upstreams = upstream ? [{ ...upstream, replies: 0, suspect: false }] : []
  const status: DnsStatusResult = { ...dnsStatus, resolver: { ...resolver, scopes, upstreams } }
  const text = dnsStatusText(status)
  expect(text).toContain('# names under corp.example 10.64.0.0/16 are also asked at 192.168.1.1')
  expect(text).toContain('# upstream 10.64.0.1 port 53: no reply yet, 3 sent')
})

test('dnsStatusText says how the system is set and why, once it is', () => {
  expect(dnsStatusText(dnsStatus).split('\n')).toContain(
    '# system resolver set by way of systemd-resolved: programs ask systemd-resolved 252',
  )
  const { resolver } = dnsStatus
  const { system: _, ...rest } = resolver ?? {}
  const unset: DnsStatusResult = JSON.parse(JSON.stringify({ ...dnsStatus, resolver: rest }))
  expect(dnsStatusText(unset)).not.toContain('system resolver')
})

test('dnsServeText is one line for the address and one per scope', () => {
  const scopes = [
    { suffix: '.', mode: 'fanout', servers: ['10.0.0.1', '10.0.0.2:54'] },
    { suffix: 'corp.example', mode: 'exclusive', servers: ['10.0.0.3'] },
  ]
  const text = dnsServeText({ apiVersion: 'nsm/dns-serve/v1', listening: '127.0.0.1:5300', scopes })
  expect(text.split('\n')).toEqual([
    'listening on 127.0.0.1:5300',
    '.             fanout     10.0.0.1,10.0.0.2:54',
    'corp.example  exclusive  10.0.0.3',
  ])
})
