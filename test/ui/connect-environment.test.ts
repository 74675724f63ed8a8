import { expect, test } from 'vitest'
import { connectRequest } from '../../src/ui/connect-request.ts'

const agentFlags: { 'spiffe-socket'?: string; 'spiffe-hint'?: string; 'spiffe-id'?: string } = {}
const unset = { manager: undefined, label: undefined, interface: undefined, mtu: undefined, timeout: undefined }
const flags = {
  ...agentFlags,
  ...unset,
  ...{ 'allow-prefix': undefined, 'exclude-prefix': undefined, 'allow-domain': undefined, name: undefined },
  ...{ 'dns-mode': 'fanout', dns: 'auto' },
}
const ask = (environment: Record<string, string>, change: Partial<typeof flags> = {}) =>
  connectRequest({ services: ['a'], flags: { ...flags, ...change }, secrets: {}, environment })

test('connectRequest takes node, pod and cluster of cmd-nsc for labels, and leaves out what is empty', () => {
  const environment = { NODE_NAME: 'node-1', POD_NAME: 'pod-7', CLUSTER_NAME: '' }
  expect(ask(environment).labels).toEqual({ nodeName: 'node-1', podName: 'pod-7' })
})

test('connectRequest lets a name and a label win over the environment', () => {
  const named = connectRequest({
    services: ['a'],
    flags: { ...flags, name: 'laptop', label: ['nodeName=mine'] },
    secrets: {},
    environment: { NODE_NAME: 'node-1', POD_NAME: 'pod-7' },
  })
  expect([named.labels, named.name]).toEqual([{ nodeName: 'mine' }, 'laptop'])
})

test('connectRequest leaves the resolver alone when cmd-nsc would', () => {
  expect(ask({ NSM_LOCAL_DNS_SERVER_ENABLED: 'false' }).dns).toBe('off')
  expect(ask({ NSM_LOCAL_DNS_SERVER_ENABLED: 'true' }).dns).toBe('auto')
})

test('connectRequest says where the SPIFFE agent is, and splits lists at commas and spaces', () => {
  expect(ask({ SPIFFE_ENDPOINT_SOCKET: 'unix:///run/agent.sock' }).workloadSocket).toBe('unix:///run/agent.sock')
  const many = connectRequest({ services: ['a,b', 'c d'], flags, secrets: {}, environment: {} })
  expect(many.services).toEqual(['a', 'b', 'c', 'd'])
})

const agent = 'unix:///run/agent.sock'

test.each([
  ['the socket', { 'spiffe-socket': agent }, {}],
  ['the hint', { 'spiffe-hint': 'blue' }, { workloadHint: 'blue' }],
  ['the ID', { 'spiffe-id': 'spiffe://a/b' }, { workloadId: 'spiffe://a/b' }],
])('connectRequest asks the SPIFFE agent first when a flag gives %s', (_what, change, expected) => {
  const request = ask({ SPIFFE_ENDPOINT_SOCKET: agent }, change)
  expect(request).toMatchObject({ workloadSocket: agent, workloadFirst: true, ...expected })
})

test('connectRequest lets the socket of a flag win, and asks no agent first for the variable alone', () => {
  const both = ask({ SPIFFE_ENDPOINT_SOCKET: 'unix:///other' }, { 'spiffe-socket': agent })
  expect(both.workloadSocket).toBe(agent)
  expect(ask({ SPIFFE_ENDPOINT_SOCKET: agent })).not.toHaveProperty('workloadFirst')
  expect(ask({ SPIFFE_ENDPOINT_SOCKET: '' })).not.toHaveProperty('workloadSocket')
})

test('connectRequest refuses a hint for an agent that nobody named', () => {
  expect(() => ask({}, { 'spiffe-hint': 'blue' })).toThrowError(expect.objectContaining({ code: 'USAGE' }))
})
