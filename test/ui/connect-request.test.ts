import { describe, expect, test } from 'vitest'
import type { Environment } from '../../src/base/settings.ts'
import { type ConnectFlags, connectRequest } from '../../src/ui/connect-request.ts'

const none: ConnectFlags = {
  manager: undefined,
  label: undefined,
  interface: undefined,
  mtu: undefined,
  'allow-prefix': undefined,
  'exclude-prefix': undefined,
  'allow-domain': undefined,
  'dns-mode': 'fanout',
  dns: 'auto',
  timeout: undefined,
  name: undefined,
}

const build = (
  parts: { flags?: Partial<ConnectFlags>; environment?: Environment; services?: readonly string[] } = {},
) =>
  connectRequest({
    services: parts.services ?? ['blue'],
    flags: { ...none, ...parts.flags },
    secrets: {},
    environment: parts.environment ?? {},
  })
const usage = (message: string) => expect.objectContaining({ code: 'USAGE', message: expect.stringContaining(message) })

describe('connectRequest', () => {
  test('without flags asks for the defaults and leaves the rest out', () => {
    expect(build()).toEqual({
      services: ['blue'],
      labels: {},
      allowPrefixes: [],
      excludePrefixes: [],
      allowDomains: [],
      dnsMode: 'fanout',
      dns: 'auto',
      timeoutMs: 60_000,
    })
  })

  test.each([
    [
      ['a', 'b'],
      ['a', 'b'],
    ],
    [
      ['a,b', ' c '],
      ['a', 'b', 'c'],
    ],
    [['a b\nc'], ['a', 'b', 'c']],
    [['kernel://a/if?x=y,'], ['kernel://a/if?x=y']],
  ])('reads the services %j as %j', (services, wanted) => {
    expect(build({ services }).services).toEqual(wanted)
  })

  test('takes the services of the variable when there is no argument', () => {
    const environment = { NSM_NETWORK_SERVICES: 'kernel://a/nsm-1,kernel://b/nsm-2' }
    expect(build({ services: [], environment }).services).toEqual(['kernel://a/nsm-1', 'kernel://b/nsm-2'])
    expect(build({ services: ['c'], environment }).services).toEqual(['c'])
  })

  test.each([{}, { NSM_NETWORK_SERVICES: '' }, { NSM_NETWORK_SERVICES: ' , ' }])(
    'without any service (%j) says how to name one',
    (environment) => {
      expect(() => build({ services: [], environment })).toThrowError(usage('no network service was named'))
    },
  )

  test('prefers a flag to the variable of cmd-nsc', () => {
    const environment = { NSM_CONNECT_TO: 'tcp://old:1', NSM_REQUEST_TIMEOUT: '5s' }
    expect(build({ environment })).toMatchObject({ manager: 'tcp://old:1', timeoutMs: 5_000 })
    const flags = { manager: 'tcp://new:1', timeout: '1m' }
    expect(build({ environment, flags })).toMatchObject({ manager: 'tcp://new:1', timeoutMs: 60_000 })
  })

  test('reads lists from repeated flags and from one text with commas', () => {
    const flags = { 'allow-prefix': ['10.0.0.0/8', '192.168.0.0/16,'], 'exclude-prefix': '10.1.0.0/16, 10.2.0.0/16' }
    expect(build({ flags })).toMatchObject({
      allowPrefixes: ['10.0.0.0/8', '192.168.0.0/16'],
      excludePrefixes: ['10.1.0.0/16', '10.2.0.0/16'],
    })
  })

  test.each(['fanout', 'prefer-service', 'exclusive'])('takes the DNS mode %s', (mode) => {
    expect(build({ flags: { 'dns-mode': mode } }).dnsMode).toBe(mode)
  })

  test.each<[Partial<ConnectFlags>, string]>([
    [{ 'dns-mode': 'both' }, 'is not a DNS mode'],
    [{ timeout: 'soon' }, 'is not a duration'],
    [{ label: ['color'] }, 'is not a label'],
    [{ mtu: 1_279 }, 'an MTU of 1279 bytes'],
    [{ mtu: 9_001 }, 'an MTU of 9001 bytes'],
  ])('refuses %j', (flags, message) => expect(() => build({ flags })).toThrowError(usage(message)))

  test.each([1_280, 9_000])('takes an MTU of %i bytes', (mtu) => {
    expect(build({ flags: { mtu } }).mtuBytes).toBe(mtu)
  })
})
