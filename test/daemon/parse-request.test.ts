import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import {
  parseConnectRequest,
  parseDisconnectRequest,
  parseListRequest,
  parseLoginRequest,
} from '../../src/daemon/parse-request.ts'
import type { ConnectRequest } from '../../src/daemon/protocol.ts'

const request: ConnectRequest = {
  services: ['kernel://blue/nsm0?app=x'],
  labels: { app: 'x' },
  allowPrefixes: ['10.0.0.0/8'],
  excludePrefixes: [],
  dnsMode: 'fanout',
  dns: 'auto',
  timeoutMs: 60_000,
}

const svid = { svidPem: 'a', keyPem: 'b', bundlePem: 'c' }
const paths = { svidPath: '/a', keyPath: '/b', bundlePath: '/c' }

describe('parseConnectRequest', () => {
  test('gives a full request back as it was', () => {
    const full: ConnectRequest = {
      ...request,
      joinString: 'nsm://host:1/?td=a&pin=b',
      manager: 'tcp://host:5001',
      svidFiles: { ...svid, paths },
      ...{
        workloadSocket: 'unix:///agent.sock',
        workloadHint: 'blue',
        workloadId: 'spiffe://a/b',
        workloadFirst: true,
      },
      applicationUid: 1_000,
      interfaceName: 'nsm0',
      mtuBytes: 1_400,
      allowDomains: ['corp.example'],
      name: 'laptop',
      ...{ dialTimeoutMs: 5_000, tokenLifetimeMs: 600_000 },
      ...{ livenessEnabled: false, livenessIntervalMs: 200, livenessTimeoutMs: 1_000 },
      awarenessGroups: [['kernel://a', 'kernel://b'], []],
    }
    expect(parseConnectRequest(JSON.parse(JSON.stringify(full)))).toEqual(full)
    expect(parseConnectRequest(JSON.parse(JSON.stringify(request)))).toEqual(request)
  })

  test.each<[string, object]>([
    ['no services', { services: undefined }],
    ['services that are no list', { services: 'blue' }],
    ['a service that is no text', { services: [1] }],
    ['an unknown key', { joinFile: '/etc/passwd' }],
    ['labels that are no texts', { labels: { a: 1 } }],
    ['an odd prefix', { allowPrefixes: ['10.0.0.0/40'] }],
    ['an odd mode', { dnsMode: 'all' }],
    ['a flag that is neither true nor false', { workloadFirst: 'yes' }],
    ['an odd dns', { dns: 'on' }],
    ['a timeout of zero', { timeoutMs: 0 }],
    ['a broken timeout', { timeoutMs: 1.5 }],
    ['an MTU that is none', { mtuBytes: 100_000 }],
    ['a switch that is a text', { livenessEnabled: 'true' }],
    ['an interval of zero', { livenessIntervalMs: 0 }],
    ['a token life beyond a day', { tokenLifetimeMs: 90_000_000 }],
    ['awareness groups that are no lists', { awarenessGroups: ['kernel://a'] }],
    ['an awareness group of numbers', { awarenessGroups: [[1]] }],
    ['half an SVID', { svidFiles: { svidPem: 'a' } }],
    ['a path that is not absolute', { svidFiles: { ...svid, paths: { ...paths, keyPath: 'key.pem' } } }],
    ['a path with an end in it', { svidFiles: { ...svid, paths: { ...paths, keyPath: '/a\0b' } } }],
    ['half of the paths', { svidFiles: { ...svid, paths: { svidPath: '/a' } } }],
    ['a user that is none', { applicationUid: 2 ** 32 - 1 }],
    ['a negative user', { applicationUid: -1 }],
    ['too many services', { services: Array.from({ length: 129 }, () => 'blue') }],
  ])('refuses %s', (_, change) => {
    expect(() => parseConnectRequest(JSON.parse(JSON.stringify({ ...request, ...change })))).toThrow(NsmError)
  })

  test('does not fall for a prototype in the labels', () => {
    const parsed = parseConnectRequest(
      JSON.parse(`{"services":[],"labels":{"__proto__":"x"},"allowPrefixes":[],
      "excludePrefixes":[],"dnsMode":"fanout","dns":"auto","timeoutMs":1}`),
    )
    expect(Object.hasOwn(parsed.labels, '__proto__')).toBe(true)
    expect(Object.getPrototypeOf(parsed.labels)).toBe(Object.prototype)
  })

  test('throws nothing but NsmError for any JSON', () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        for (const parse of [parseConnectRequest, parseDisconnectRequest, parseListRequest]) {
          try {
            parse(value)
          } catch (error) {
            expect(error).toBeInstanceOf(NsmError)
          }
        }
      }),
    )
  })
})

describe('parseLoginRequest', () => {
  const login = { joinString: 'nsm://a', idToken: 'a.b.c', issuer: 'https://a', clientId: 'x', store: 'auto' }

  test('gives a request back as it was, with and without a refresh token', () => {
    for (const request of [login, { ...login, refreshToken: 'r' }]) {
      expect(parseLoginRequest(JSON.parse(JSON.stringify(request)))).toEqual(request)
    }
  })

  test.each<[string, object]>([
    ['no ID token', { idToken: undefined }],
    ['a refresh token that is no text', { refreshToken: 5 }],
    ['no issuer', { issuer: undefined }],
    ['a place that is none', { store: '/etc/passwd' }],
    ['no place', { store: undefined }],
    ['an unknown key', { account: 'spiffe://a/b' }],
    ['a text without end', { refreshToken: 'x'.repeat(300_000) }],
  ])('refuses %s', (_what, change) => {
    expect(() => parseLoginRequest({ ...login, ...change })).toThrowError(expect.objectContaining({ code: 'USAGE' }))
  })

  test('throws nothing but USAGE, whatever comes', () => {
    fc.assert(
      fc.property(fc.anything(), (value) => {
        try {
          parseLoginRequest(value)
        } catch (error) {
          expect(error).toMatchObject({ code: 'USAGE' })
        }
      }),
    )
  })
})
