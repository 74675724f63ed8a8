import { describe, expect, test } from 'vitest'
import { isStub, namesOnlyStub, upstreamsOf, whenChanged } from '../../../src/dns/os/host-upstreams.ts'
import { isAnothers } from '../../../src/dns/os/other-nsm.ts'
import { buildResolvConf, parseResolvConf } from '../../../src/dns/os/resolv-conf.ts'
import { isOwnAddress } from '../../../src/dns/own-addresses.ts'

const at53 = (...addresses: readonly string[]) => addresses.map((address) => ({ address, port: 53 }))

describe('addresses of resolvers', () => {
  test.each([
    ['127.0.0.53', true, false],
    ['127.0.0.54', true, false],
    ['127.0.0.55', false, true],
    ['127.0.0.59', false, true],
    ['127.0.0.60', false, false],
    ['127.0.0.5', false, false],
    ['127.0.0.551', false, false],
    ['::1', false, false],
    ['192.0.2.53', false, false],
  ])('%s: stub of resolved %s, ours %s', (address, stub, own) => {
    expect([isStub(address), isOwnAddress(address)]).toEqual([stub, own])
  })

  test('upstreamsOf leaves ours out and keeps the order', () => {
    expect(upstreamsOf(['192.0.2.2', '127.0.0.57', '::1', '192.0.2.1'])).toEqual(at53('192.0.2.2', '::1', '192.0.2.1'))
  })

  test.each([
    ['nameserver 127.0.0.53\n', true],
    ['nameserver 127.0.0.53\nnameserver 127.0.0.54\n', true],
    ['nameserver 127.0.0.53\nnameserver 192.0.2.1\n', false],
    ['nameserver 127.0.0.55\n', false],
    ['', false],
  ])('a file that says %j sends all to the stub: %s', (text, only) => {
    expect(namesOnlyStub(parseResolvConf(text))).toBe(only)
  })
})

describe('whenChanged', () => {
  test('passes news on once, and no list at all is no news', () => {
    const told: unknown[] = []
    const tell = whenChanged(at53('192.0.2.1'), (upstreams) => void told.push(upstreams))
    const lists = [['192.0.2.1'], [], ['192.0.2.2'], ['192.0.2.2'], [], ['192.0.2.2'], ['192.0.2.1']]
    for (const list of lists) tell(at53(...list))
    expect(told).toEqual([at53('192.0.2.2'), at53('192.0.2.1')])
  })
})

describe('isAnothers', () => {
  const [listener = { address: '', port: 0 }] = at53('127.0.0.55')
  const written = (address: string) => buildResolvConf(parseResolvConf(''), { address, searchDomains: [] })
  test.each([
    ['another nsm', written('127.0.0.56'), true],
    ['ourselves', written('127.0.0.55'), false],
    ['nobody of us, though at an address like ours', 'nameserver 127.0.0.56\n', false],
    ['us, but of another server', written('192.0.2.1'), false],
  ])('a file of %s', (_what, text, is) => {
    expect(isAnothers(parseResolvConf(text), listener)).toBe(is)
  })
})
