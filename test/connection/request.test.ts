import { create } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { describe, expect, test } from 'vitest'
import { buildRequest, ownSegment, readLease } from '../../src/connection/request.ts'
import { type Connection, ConnectionSchema, State } from '../../src/nsm/generated/connection_pb.js'
import { plainWanted } from './world.ts'

const nowMs = 1_700_000_000_000
const endMs = nowMs + 600_000
const key = new Uint8Array(32).fill(7)
const offer = { sourceAddress: '192.0.2.7', listenPort: 51_821, publicKey: new Uint8Array(32).fill(1), mtuBytes: 1_400 }
const requester = { clientName: 'laptop-1', connectionId: 'blue-id' }
const parts = { wanted: plainWanted, requester, offer, excludedPrefixes: ['192.0.2.0/24'] }

/** An answer that can carry a tunnel, with one part of it changed. */
function answer(change: (connection: Connection) => unknown = () => {}): Connection {
  const connection = create(ConnectionSchema, {
    id: 'blue-id',
    networkService: 'blue',
    networkServiceEndpointName: 'blue-1',
    mechanism: {
      ...{ cls: 'REMOTE', type: 'WIREGUARD' },
      parameters: { dst_ip: '192.0.2.1', dst_port: '51820', dst_public_key: Buffer.from(key).toString('base64') },
    },
    context: {
      ipContext: {
        srcIpAddrs: ['10.64.0.1/32'],
        dstIpAddrs: ['10.64.0.0/32'],
        srcRoutes: [{ prefix: '10.64.0.0/16' }, { prefix: '10.64.0.9/16' }],
        excludedPrefixes: ['198.51.100.0/24'],
      },
      dnsContext: { configs: [{ dnsServerIps: ['10.64.0.0'], searchDomains: ['blue.internal'] }] },
    },
    path: {
      pathSegments: [
        { name: 'laptop-1', id: 'blue-id', token: 'a', expires: timestampFromMs(endMs) },
        { name: 'manager', id: 'm-1', token: 'b', expires: timestampFromMs(endMs + 1) },
      ],
    },
  })
  change(connection)
  return connection
}

describe('a first request', () => {
  const { connection, mechanismPreferences } = buildRequest({ ...parts, purpose: 'first' })

  test('names who asks for what, alone on its path, with a context that endpoints may fill', () => {
    expect(connection).toMatchObject({
      id: 'blue-id',
      networkService: 'blue',
      payload: 'IP',
      labels: { podName: 'laptop' },
    })
    expect(connection?.path?.pathSegments).toMatchObject([{ name: 'laptop-1', id: 'blue-id', token: '' }])
    expect(connection?.context?.ipContext?.excludedPrefixes).toEqual(['192.0.2.0/24'])
    expect(connection?.context?.dnsContext).toBeDefined()
  })

  test('offers WireGuard and nothing else', () => {
    expect(mechanismPreferences).toHaveLength(1)
    expect(mechanismPreferences[0]).toMatchObject({
      ...{ cls: 'REMOTE', type: 'WIREGUARD' },
      parameters: { src_ip: '192.0.2.7', src_port: '51821', MTU: '1400', src_public_key: expect.stringMatching(/=$/) },
    })
  })

  test('keeps a podName that was given, and adds the domain to the service', () => {
    const wanted = { ...plainWanted, domain: 'example.org', labels: { podName: 'alice', team: 'red' } }
    const other = buildRequest({ ...parts, wanted, purpose: 'first' }).connection
    expect(other?.labels).toEqual({ podName: 'alice', team: 'red' })
    expect(other?.networkService).toBe('blue@example.org')
  })
})

describe('a later request', () => {
  test.each(['refresh', 'renew'] as const)('to %s is the whole last answer, with what is in use now', (purpose) => {
    const last = answer()
    const { connection } = buildRequest({ ...parts, purpose, last })
    const expected = answer(({ context }) => context?.ipContext?.excludedPrefixes.splice(0, 1, '192.0.2.0/24'))
    expect(connection).toEqual(expected)
    expect(last).toEqual(answer())
  })

  test('to reselect keeps path and labels, and nothing that the endpoint decided', () => {
    const { connection } = buildRequest({ ...parts, purpose: 'reselect', last: answer() })
    expect(connection?.path).toEqual(answer().path)
    expect(connection).toMatchObject({ networkServiceEndpointName: '', state: State.RESELECT_REQUESTED })
    expect(connection?.mechanism).toBeUndefined()
    expect(connection?.context?.ipContext).toMatchObject({
      srcIpAddrs: [],
      srcRoutes: [],
      excludedPrefixes: ['192.0.2.0/24'],
    })
    expect(connection?.context?.dnsContext?.configs).toEqual([])
  })
})

describe('readLease', () => {
  const read = (change?: (connection: Connection) => unknown, purpose: 'first' | 'renew' = 'first') =>
    readLease(answer(change), { offer, purpose, nowMs })

  test('gives the tunnel, the addresses, each route once and masked, and the names', () => {
    expect(read()).toMatchObject({
      peer: { address: '192.0.2.1', port: 51_820 },
      endpointName: 'blue-1',
      answer: {
        addresses: ['10.64.0.1/32'],
        endpointAddresses: ['10.64.0.0/32'],
        routes: ['10.64.0.0/16'],
        dns: [{ servers: ['10.64.0.0'], domains: ['blue.internal'] }],
        policies: 0,
      },
    })
    expect(Buffer.from(read().peer.publicKey)).toEqual(Buffer.from(key))
  })

  test.each([
    ['nobody says one', undefined, undefined, 1_400],
    ['the mechanism says less', '1390', undefined, 1_390],
    ['the context says less', undefined, 1_380, 1_380],
    ['both say less', '1390', 1_380, 1_380],
    ['they say more', '9000', 8_000, 1_400],
    ['they say zero', undefined, 0, 1_400],
  ])('takes the smallest MTU: %s', (_what, ofMechanism, ofContext, mtuBytes) => {
    const lease = read(({ mechanism, context }) => {
      if (mechanism && ofMechanism) mechanism.parameters['MTU'] = ofMechanism
      if (context && ofContext !== undefined) context.MTU = ofContext
    })
    expect(lease.mtuBytes).toBe(mtuBytes)
  })

  test('ends with the own token, and is refreshed after a fifth of the shortest', () => {
    expect(read()).toMatchObject({ expiresMs: endMs, refreshAtMs: nowMs + 120_000, renewed: false })
    expect(read(undefined, 'renew').renewed).toBe(true)
    expect(read(({ path }) => delete path?.pathSegments[0]?.expires).expiresMs).toBe(nowMs)
  })

  test('leaves a route that is none for the bounds to refuse', () => {
    const lease = read(({ context }) => context?.ipContext?.srcRoutes.push(...answerRoutes('10.64.0.0/33')))
    expect(lease.answer.routes).toEqual(['10.64.0.0/16', '10.64.0.0/33'])
  })

  test.each<[string, (connection: Connection) => unknown]>([
    ['no mechanism', (connection) => delete connection.mechanism],
    ['another mechanism', ({ mechanism }) => Object.assign(mechanism ?? {}, { type: 'VXLAN' })],
    ['no address', ({ mechanism }) => delete mechanism?.parameters['dst_ip']],
    ['no port', ({ mechanism }) => delete mechanism?.parameters['dst_port']],
    ['no key', ({ mechanism }) => delete mechanism?.parameters['dst_public_key']],
  ])('refuses an answer with %s', (_what, change) => {
    expect(() => read(change)).toThrow('the answer carries no WireGuard endpoint')
  })
})

describe('ownSegment', () => {
  test('is the first of the path, whatever stands behind it', () => {
    expect(ownSegment(answer())).toEqual({ name: 'laptop-1', id: 'blue-id' })
    expect(ownSegment(create(ConnectionSchema))).toBeUndefined()
  })
})

const answerRoutes = (...prefixes: readonly string[]) =>
  create(ConnectionSchema, { context: { ipContext: { srcRoutes: prefixes.map((prefix) => ({ prefix })) } } }).context
    ?.ipContext?.srcRoutes ?? []
