import { describe, expect, test } from 'vitest'
import { type ServeFlags, serveRequest } from '../../src/ui/serve-request.ts'

const dirs = { stateDir: '/state', runtimeDir: '/run' }
const build = (flags: Partial<ServeFlags> = {}) =>
  serveRequest({ service: 'blue', listen: '0.0.0.0:5001', 'wireguard-port': 51_820, ...flags }, dirs)
const usage = (text: string) =>
  expect.objectContaining({ code: 'USAGE', message: expect.stringContaining(text), next: expect.stringMatching(/\w/) })

describe('serveRequest', () => {
  test('says for every flag that is not given what the service is', () => {
    expect(build()).toEqual({
      ...dirs,
      service: 'blue',
      prefixes: ['10.64.0.0/16'],
      dnsDomain: 'blue.nsm.internal',
      listen: '0.0.0.0:5001',
      wireguardPort: 51_820,
    })
  })

  test('takes a bundle endpoint of the web as a whole', () => {
    const flags = { 'bundle-listen': '0.0.0.0:8443', 'bundle-cert': '/etc/cert.pem', 'bundle-key': '/etc/key.pem' }
    expect(build(flags).bundleWeb).toEqual({
      listen: '0.0.0.0:8443',
      certificatePath: '/etc/cert.pem',
      keyPath: '/etc/key.pem',
    })
    for (const missing of Object.keys(flags)) {
      expect(() => build({ ...flags, [missing]: undefined })).toThrow(
        usage('needs an address, a certificate and its key'),
      )
    }
  })

  test('takes prefixes from repeated flags and from one text with commas', () => {
    const prefixes = ['10.70.0.0/16', 'fd70::/64']
    expect(build({ prefix: prefixes }).prefixes).toEqual(prefixes)
    expect(build({ prefix: '10.70.0.0/16, fd70::/64,' }).prefixes).toEqual(prefixes)
  })

  test.each(['my-networkservice-1', 'Blue_2', 'a', 'a.b'])('takes the service name %s', (service) => {
    expect(build({ service })).toMatchObject({ service, dnsDomain: `${service}.nsm.internal` })
  })

  test.each(['', 'bad name', 'a/b', 'a@b', '-a', 'a?', 'a\n', 'ü', 'x'.repeat(64)])(
    'refuses the service name %j',
    (service) => expect(() => build({ service })).toThrowError(usage('network service')),
  )

  test('takes a DNS domain with a final dot', () => {
    expect(build({ 'dns-domain': 'Blue.Example.' }).dnsDomain).toBe('Blue.Example')
  })

  test.each(['', '.', 'a..b', '.a', 'a b', '-a.example', 'ü.example', `${'x'.repeat(64)}.example`, 'a.'.repeat(100)])(
    'refuses the DNS domain %j',
    (domain) => expect(() => build({ 'dns-domain': domain })).toThrowError(usage('domain')),
  )

  test.each([
    ['127.0.0.0/8', '127.0.0.0/8'],
    ['127.5.0.0/16', '127.0.0.0/8'],
    ['169.254.1.0/24', '169.254.0.0/16'],
    ['224.0.0.0/4', '224.0.0.0/3'],
    ['0.0.0.0/0', '0.0.0.0/8'],
    ['fe80::/64', 'fe80::/10'],
    ['::/0', '::/127'],
  ])('refuses the prefix %s, which reaches into %s', (prefix, into) => {
    expect(() => build({ prefix })).toThrowError(usage(`reaches into ${into}`))
  })

  test('takes relays from repeated flags and from one text with commas', () => {
    const relays = ['spiffe://cluster.example/ns/nsm-system/*', 'spiffe://cluster.example/forwarder']
    expect(build({ relay: relays }).relays).toEqual(relays)
    expect(build({ relay: relays.join(', ') }).relays).toEqual(relays)
  })

  test.each([
    'spiffe://cluster.example/*',
    'spiffe://cluster.example',
    'nsmgr',
    '*',
    'spiffe://a/b*',
    'spiffe://a//b',
    'spiffe://A/b',
  ])('refuses the relay %s', (relay) => expect(() => build({ relay })).toThrowError(usage('cannot name a relay')))

  test.each(['10.0.0.0/33', 'nonsense', '10.0.0/8'])('refuses the prefix %s, which is none', (prefix) => {
    expect(() => build({ prefix })).toThrowError(usage('is not an IP'))
  })
})
