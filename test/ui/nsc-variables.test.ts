import { describe, expect, test } from 'vitest'
import type { ConnectFlags } from '../../src/ui/connect-request.ts'
import { connectRequest } from '../../src/ui/connect-request.ts'
import { nscVariables, switchOf } from '../../src/ui/nsc-variables.ts'

const flags: ConnectFlags = {
  ...{
    manager: undefined,
    label: undefined,
    interface: undefined,
    mtu: undefined,
    timeout: undefined,
    name: undefined,
  },
  ...{ 'allow-prefix': undefined, 'exclude-prefix': undefined, 'allow-domain': undefined },
  ...{ 'dns-mode': 'fanout', dns: 'auto' },
}
const ask = (environment: Record<string, string>, services: readonly string[] = ['a']) =>
  connectRequest({ services, flags, secrets: {}, environment })

describe('the variables of cmd-nsc', () => {
  test('that are not set ask for nothing', () => {
    expect(nscVariables({})).toEqual({})
  })

  test('that are set but empty ask for nothing', () => {
    const names = ['NSM_DIAL_TIMEOUT', 'NSM_MAX_TOKEN_LIFETIME', 'NSM_MECHANISM', 'NSM_AWARENESS_GROUPS']
    const liveness = ['ENABLED', 'INTERVAL', 'TIMEOUT'].map((part) => `NSM_LIVENESS_CHECK_${part}`)
    expect(nscVariables(Object.fromEntries([...names, ...liveness].map((name) => [name, ''])))).toEqual({})
    const request = ask({ NSM_CONNECT_TO: '', NSM_REQUEST_TIMEOUT: '', NSM_LOCAL_DNS_SERVER_ENABLED: '' })
    expect(request).toMatchObject({ timeoutMs: 60_000, dns: 'auto' })
    expect(request).not.toHaveProperty('manager')
  })

  test.each<[string, string, object]>([
    ['NSM_DIAL_TIMEOUT', '5s', { dialTimeoutMs: 5_000 }],
    ['NSM_MAX_TOKEN_LIFETIME', '10m', { tokenLifetimeMs: 600_000 }],
    ['NSM_LIVENESS_CHECK_ENABLED', 'false', { livenessEnabled: false }],
    ['NSM_LIVENESS_CHECK_ENABLED', '1', { livenessEnabled: true }],
    ['NSM_LIVENESS_CHECK_INTERVAL', '200ms', { livenessIntervalMs: 200 }],
    ['NSM_LIVENESS_CHECK_TIMEOUT', '1s', { livenessTimeoutMs: 1_000 }],
    ['NSM_MECHANISM', 'kernel', {}],
    ['NSM_MECHANISM', 'KERNEL', {}],
    [
      'NSM_AWARENESS_GROUPS',
      '[kernel://a,kernel://b@far.test/nsm-1]',
      { awarenessGroups: [['kernel://a', 'kernel://b@far.test/nsm-1']] },
    ],
    ['NSM_AWARENESS_GROUPS', '[a, b], [c]', { awarenessGroups: [['a', 'b'], ['c']] }],
    ['NSM_REQUEST_TIMEOUT', '15s', { timeoutMs: 15_000 }],
    ['NSM_CONNECT_TO', 'tcp://10.0.0.1:5001', { manager: 'tcp://10.0.0.1:5001' }],
    ['NSM_LOCAL_DNS_SERVER_ENABLED', '0', { dns: 'off' }],
    ['NSM_LOCAL_DNS_SERVER_ENABLED', 'True', { dns: 'auto' }],
  ])('%s=%s becomes part of the request', (variable, value, expected) => {
    expect(ask({ [variable]: value })).toMatchObject(expected)
  })

  test('NSM_NETWORK_SERVICES names the services when no argument does', () => {
    const environment = { NSM_NETWORK_SERVICES: 'kernel://a/nsm-1?app=x,kernel://b@far.test' }
    expect(ask(environment, []).services).toEqual(['kernel://a/nsm-1?app=x', 'kernel://b@far.test'])
    expect(ask(environment, ['c']).services).toEqual(['c'])
  })

  test.each([
    ['NSM_DIAL_TIMEOUT', '5'],
    ['NSM_DIAL_TIMEOUT', '0s'],
    ['NSM_MAX_TOKEN_LIFETIME', 'long'],
    ['NSM_LIVENESS_CHECK_ENABLED', 'yes'],
    ['NSM_LIVENESS_CHECK_INTERVAL', '-1s'],
    ['NSM_LIVENESS_CHECK_TIMEOUT', '1 s'],
    ['NSM_LOCAL_DNS_SERVER_ENABLED', 'off'],
    ['NSM_MECHANISM', 'memif'],
    ['NSM_AWARENESS_GROUPS', 'kernel://a'],
    ['NSM_AWARENESS_GROUPS', '[a],'],
    ['NSM_AWARENESS_GROUPS', '[a][b]'],
    ['NSM_AWARENESS_GROUPS', '[]'],
  ])('%s=%s is refused by its name', (variable, value) => {
    const refusal = {
      code: 'USAGE',
      message: expect.stringContaining(variable),
      next: expect.stringContaining(variable),
    }
    expect(() => ask({ [variable]: value })).toThrowError(expect.objectContaining(refusal))
  })

  test.each(['1', 't', 'T', 'true', 'TRUE', 'True'])('a switch %s is on, as in Go', (text) => {
    expect(switchOf({ X: text }, 'X')).toBe(true)
  })

  test.each(['0', 'f', 'F', 'false', 'FALSE', 'False'])('a switch %s is off, as in Go', (text) => {
    expect(switchOf({ X: text }, 'X')).toBe(false)
  })
})
