import { describe, expect, test } from 'vitest'
import { dnsServeRequest, parseServer } from '../../src/ui/dns-serve-request.ts'
import { wideScopes } from '../../src/ui/dns-serve-text.ts'

describe('dnsServeRequest', () => {
  test('reads all flags', () => {
    const request = dnsServeRequest({
      listen: '127.0.0.1:5399',
      default: ['192.0.2.53', '[2001:db8::53]:5353'],
      scope: [
        'corp.example=10.0.0.53,10.0.0.54:5353',
        'own.example/exclusive=fd00::53',
        '10.0.0.0/8=10.0.0.53',
        '10.1.0.0/16/prefer-service=10.1.0.1',
      ],
    })
    expect(request).toEqual({
      listen: { address: '127.0.0.1', port: 5399 },
      defaults: [
        { address: '192.0.2.53', port: 53 },
        { address: '2001:db8::53', port: 5353 },
      ],
      scopes: [
        {
          suffix: 'corp.example',
          mode: 'fanout',
          upstreams: [
            { address: '10.0.0.53', port: 53 },
            { address: '10.0.0.54', port: 5353 },
          ],
        },
        { suffix: 'own.example', mode: 'exclusive', upstreams: [{ address: 'fd00::53', port: 53 }] },
        { suffix: '10.0.0.0/8', mode: 'fanout', upstreams: [{ address: '10.0.0.53', port: 53 }] },
        { suffix: '10.1.0.0/16', mode: 'prefer-service', upstreams: [{ address: '10.1.0.1', port: 53 }] },
      ],
    })
  })

  test('reads a config file, whose lists join those of the flags; listen of the flag goes first', () => {
    const config = JSON.stringify({ listen: '127.0.0.2:53', default: ['192.0.2.1'], scope: ['a.example=10.0.0.1'] })
    const request = dnsServeRequest({ listen: '127.0.0.3:53', default: ['192.0.2.2'] }, config)
    expect(request.listen).toEqual({ address: '127.0.0.3', port: 53 })
    expect(request.defaults.map(({ address }) => address)).toEqual(['192.0.2.2', '192.0.2.1'])
    expect(request.scopes.map(({ suffix }) => suffix)).toEqual(['a.example'])
    expect(dnsServeRequest({}, config).listen.address).toBe('127.0.0.2')
    expect(dnsServeRequest({}).listen).toEqual({ address: '127.0.0.1', port: 5300 })
  })

  test.each([
    [{ listen: '0.0.0.0:53' }, 'whole network'],
    [{ listen: '[::]:53' }, 'whole network'],
    [{ listen: 'localhost:53' }, 'listen "localhost:53"'],
    [{ default: ['dns.example'] }, 'default "dns.example"'],
    [{ default: ['192.0.2.1:70000'] }, 'default "192.0.2.1:70000"'],
    [{ scope: ['corp.example'] }, 'scope "corp.example"'],
    [{ scope: ['=10.0.0.1'] }, 'scope "=10.0.0.1"'],
    [{ scope: ['corp.example='] }, 'scope "corp.example="'],
    [{ scope: ['corp.example/race=10.0.0.1'] }, 'scope "corp.example/race"'],
    [{ scope: ['corp.example=ns1'] }, 'scope "ns1"'],
  ])('refuses %j', (flags, message) => {
    expect(() => dnsServeRequest(flags)).toThrow(message)
  })

  test.each([
    ['{', 'not JSON'],
    ['[]', 'not a JSON object'],
    ['null', 'not a JSON object'],
    ['{"listen": 53}', '"listen"'],
    ['{"default": "192.0.2.1"}', '"default"'],
    ['{"scope": [1]}', '"scope"'],
    ['{"scopes": []}', '"scopes"'],
    ['{"__proto__": {}}', '"__proto__"'],
  ])('refuses the config %s', (text, message) => {
    expect(() => dnsServeRequest({}, text)).toThrow(message)
  })
})

test.each([
  ['192.0.2.1', '192.0.2.1', 53],
  ['192.0.2.1:5353', '192.0.2.1', 5353],
  ['2001:db8::1', '2001:db8::1', 53],
  ['[2001:db8::1]', '2001:db8::1', 53],
  ['[2001:db8::1]:5353', '2001:db8::1', 5353],
])('the server %s is %s port %i', (text, address, port) => {
  expect(parseServer(text, 'server')).toEqual({ address, port })
})

test('a scope of everything or of a top-level domain is told', () => {
  const scopes = ['.', 'com', 'corp.example', '10.0.0.0/8'].map((suffix) => `${suffix}=10.0.0.1`)
  expect(wideScopes(dnsServeRequest({ scope: scopes }))).toEqual([
    'every name of this machine is asked at 10.0.0.1',
    'every name under the top-level domain com is asked at 10.0.0.1',
  ])
})
