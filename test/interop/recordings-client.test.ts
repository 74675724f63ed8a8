import { create, fromBinary } from '@bufbuild/protobuf'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { NsmError } from '../../src/base/errors.ts'
import { buildRequest, readLease } from '../../src/connection/request.ts'
import type { Wanted } from '../../src/connection/wanted.ts'
import { createNsmClient } from '../../src/nsm/client.ts'
import { type Connection, ConnectionEventType, PathSchema } from '../../src/nsm/generated/connection_pb.js'
import { type NetworkServiceRequest, NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import { createRegistryClient } from '../../src/registry/client.ts'
import { TestMesh } from '../nsm/mesh.ts'
import { asOfNow, jsonOf, schemaOf, shapeOf } from '../support/recorded-messages.ts'
import { type RecordedCall, type RecordingName, readRecording } from '../support/recordings.ts'
import { type ScriptedCall, startScriptedServer } from '../support/scripted-server.ts'

/* Our client against a server that answers as NSM's programs did, byte for byte except for tokens and ends, which are of
 * today: each call gets the answer of the next recorded call of its method that asked the same. */

const mesh = new TestMesh('peers.test')
afterAll(() => mesh.close())
const identities = new Map<string, ReturnType<typeof mesh.issue>>()
const issued = (spiffeId: string) => {
  const known = identities.get(spiffeId) ?? mesh.issue(spiffeId.replace('spiffe://peers.test', ''))
  identities.set(spiffeId, known)
  return known
}

/** What our client sent, beside what theirs sent for the same answer. */
interface Compared {
  readonly ours: unknown
  readonly theirs: unknown
}

async function replay(name: RecordingName, server: string, wanted: (call: RecordedCall) => boolean = () => true) {
  const { calls, atMs } = readRecording(name)
  const left = calls.filter(wanted)
  const compared: Compared[] = []
  const answer = (call: ScriptedCall) => {
    const at = left.findIndex((one) => one.method === call.method && asksTheSame(one, call.request))
    const [recorded] = at < 0 ? [] : left.splice(at, 1)
    if (!recorded) return call.end(5, `no such call was recorded: ${call.method}`)
    const [sent] = recorded.sent
    compared.push({ ours: readAs(sent?.type ?? '', call.request), theirs: sent?.json })
    const header = recorded.header['path'] === undefined ? {} : { path: recorded.header['path'] }
    for (const message of recorded.received)
      call.send(
        asOfNow(message, atMs, (id) => issued(id).svid),
        header,
      )
    if (recorded.code !== undefined) call.end(recorded.code, recorded.message)
  }
  const scripted = await startScriptedServer(issued(server).svid, answer)
  mesh.onClose(() => scripted.close())
  const { svid } = issued('spiffe://peers.test/client')
  expect(svid.spiffeId).toBe('spiffe://peers.test/client')
  const source = mesh.source('/client')
  source.set(issued('spiffe://peers.test/client'))
  return { channel: mesh.channel(scripted, source), compared, left }
}

const readAs = (type: string, wire: Uint8Array) => {
  const schema = schemaOf(type)
  return jsonOf(schema, fromBinary(schema, wire))
}

/** Queries of a registry are told apart by what they ask; all else comes in the recorded order. */
function asksTheSame({ sent, method }: RecordedCall, request: Uint8Array): boolean {
  const [first] = sent
  if (!method.endsWith('/Find') || !first) return true
  return JSON.stringify(readAs(first.type, request)) === JSON.stringify(readAs(first.type, first.wire))
}

describe('our registry client, answered as by the registry of NSM', () => {
  let client: ReturnType<typeof createRegistryClient>
  let compared: readonly Compared[]
  let left: readonly RecordedCall[]

  beforeAll(async () => {
    const replayed = await replay('registry', 'spiffe://peers.test/registry')
    client = createRegistryClient(replayed.channel)
    compared = replayed.compared
    left = replayed.left
  })

  const labelled = (app: string) => ({
    networkServiceNames: ['recorded'],
    networkServiceLabels: { recorded: { labels: { app } } },
  })

  test('registers a service and an endpoint, and refreshes it, with the fields theirs sends', async () => {
    const matches = [
      {
        sourceSelector: { team: 'red' },
        routes: [{ destinationSelector: { app: 'red' } }],
        fallthrough: true,
      },
      { routes: [{ destinationSelector: { app: 'blue' } }] },
    ]
    const service = await client.registerService({ name: 'recorded', payload: 'IP', matches })
    expect(service.matches.map(({ fallthrough }) => fallthrough)).toEqual([true, false])
    const wanted = { ...labelled('red'), name: 'recorded-1', url: 'tcp://127.0.0.1:9' }
    const first = await client.registerEndpoint(wanted)
    const again = await client.registerEndpoint(first)
    expect(again.pathIds).toEqual(['spiffe://peers.test/client', 'spiffe://peers.test/registry'])
    expect(again.initialRegistrationTime).toEqual(first.initialRegistrationTime)
    expect(compared).toHaveLength(3)
    expect(compared[0]?.ours).toEqual(compared[0]?.theirs)
    expect(compared[1]?.ours).toEqual(compared[1]?.theirs)
    expect(shapeOf(compared[2]?.ours)).toEqual(shapeOf(compared[2]?.theirs))
  })

  test.each([
    ['its service', { networkServiceNames: ['recorded'] }, 1],
    ['its name', { name: 'recorded-1' }, 1],
    ['a label it has', labelled('red'), 1],
    ['a label it has not', labelled('green'), 0],
    ['a part of its URL', { url: '127.0.0.1:9' }, 1],
    ['a service without endpoints', { networkServiceNames: ['absent'] }, 0],
  ])('finds an endpoint by %s', async (_what, query, count) => {
    const found = await client.findEndpoints(query)
    expect(found.map(({ name, url }) => [name, url])).toEqual(Array(count).fill(['recorded-1', 'tcp://127.0.0.1:9']))
  })

  test('finds the service', async () => {
    expect(await client.findServices({ name: 'recorded' })).toMatchObject([{ name: 'recorded', payload: 'IP' }])
  })

  test('sees the registration, its repeat and its end in a watch', async () => {
    const seen: boolean[] = []
    for await (const { entry, deleted } of client.watchEndpoints({ networkServiceNames: ['recorded'] })) {
      expect(entry.name).toBe('recorded-1')
      seen.push(deleted)
      if (deleted) break
    }
    expect(seen).toEqual([false, false, true])
  })

  test('takes endpoint and service back, and has asked for all that was recorded but the watches of the SDK', async () => {
    await client.unregisterEndpoint({ name: 'recorded-1' })
    await client.unregisterService('recorded')
    expect(left.map(({ sent }) => sent[0]?.json)).toEqual([
      { network_service: { name: 'recorded' }, watch: true },
      { network_service_endpoint: { name: 'recorded-1' }, watch: true },
      { network_service_endpoint: { name: 'recorded-1' }, watch: true },
    ])
  })
})

describe.each([
  ['manager', 'spiffe://peers.test/nsmgr', 'vl3', undefined],
  ['direct', 'spiffe://peers.test/vl3', 'direct', 'direct-1'],
] as const)('our client, answered as in the recording %s', (name, server, service, endpoint) => {
  const wanted: Wanted = {
    ...{ service, name: 'recorder', labels: {}, allowPrefixes: [], excludePrefixes: [], allowDomains: [] },
    ...{ dnsMode: 'fanout', dns: 'auto' },
  }
  const requester = { clientName: 'recorder', connectionId: 'recorder-0' }
  const offer = { sourceAddress: '127.0.0.1', listenPort: 51_820, publicKey: new Uint8Array(32), mtuBytes: 1_440 }
  const parts = { wanted, requester, offer, excludedPrefixes: ['192.0.2.0/24'] }
  const first = (): NetworkServiceRequest => {
    const request = buildRequest({ ...parts, purpose: 'first' })
    if (endpoint && request.connection) request.connection.networkServiceEndpointName = endpoint
    return request
  }

  test('requests, refreshes and closes with the fields theirs sends, and every end to the nanosecond', async () => {
    const { channel, compared, left } = await replay(name, server, ({ method }) => !method.includes('Monitor'))
    const client = createNsmClient(channel)
    const accepted = await client.request(first())
    const lease = readLease(accepted, { offer, purpose: 'first', nowMs: Date.now() })
    expect(lease.refreshAtMs).toBeGreaterThan(Date.now())
    const again = await client.request(buildRequest({ ...parts, purpose: 'refresh', last: accepted }))
    expect(again.context?.ipContext).toEqual(accepted.context?.ipContext)
    await client.close(again)
    expect(left).toEqual([])
    const pathJson = ({ path }: Connection) =>
      JSON.parse(JSON.stringify(jsonOf(PathSchema, path ?? create(PathSchema))))
    expect(compared[1]?.ours).toMatchObject({ connection: { path: pathJson(accepted) } })
    expect(compared[2]?.ours).toMatchObject({ path: pathJson(again) })
    expect(accepted.path?.pathSegments.every(({ expires }) => (expires?.nanos ?? 0) % 1_000_000 > 0)).toBe(true)
    const [request, refresh, close] = compared.map(({ ours, theirs }) => differences(shapeOf(ours), shapeOf(theirs)))
    const excluded = '.connection.context.ip_context.excluded_prefixes[]'
    expect(request).toEqual({ ours: [excluded], theirs: [] })
    expect(refresh).toEqual({ ours: [excluded], theirs: [] })
    expect(close).toEqual({ ours: [], theirs: [] })
  })

  test('sees an empty beginning, an update for each request, and a delete', async () => {
    const { channel } = await replay(name, server)
    const seen: [ConnectionEventType, string | undefined][] = []
    for await (const event of createNsmClient(channel).monitor({
      pathSegments: [{ name: 'recorder', id: 'recorder-0' }],
    })) {
      const [connection] = Object.values(event.connections)
      seen.push([event.type, connection?.path?.pathSegments[0]?.id])
      if (connection) expect(connection.path?.index).toBe(1)
      if (event.type === ConnectionEventType.DELETE) break
    }
    expect(seen).toEqual([
      [ConnectionEventType.INITIAL_STATE_TRANSFER, undefined],
      [ConnectionEventType.UPDATE, 'recorder-0'],
      [ConnectionEventType.UPDATE, 'recorder-0'],
      [ConnectionEventType.DELETE, 'recorder-0'],
    ])
  })
})

describe('our client, refused as by NSM programs', () => {
  test.each([
    ['unknown service', 'NOT_FOUND', 'network service nowhere is not found'],
    ['unknown endpoint', 'NOT_FOUND', 'network service endpoint nobody'],
    ['another id than its segment', 'REFUSED', 'should be equal'],
    ['no path', 'REFUSED', 'no sufficient privileges'],
    ['unknown mechanism', 'REFUSED', 'mechanism'],
    ['another payload', 'NOT_FOUND', 'is not found'],
    ['no token', 'REFUSED', 'no sufficient privileges'],
    ['registration without a token', 'REFUSED', 'no sufficient privileges'],
    ['registration without a path', 'REFUSED', 'no sufficient privileges'],
    ['endpoint of another identity', 'REFUSED', 'no sufficient privileges'],
    ['service of another identity', 'REFUSED', 'no sufficient privileges'],
  ])('%s: %s', async (exchange, code, text) => {
    const { channel, left } = await replay('refused', 'spiffe://peers.test/nsmgr', (call) =>
      call.exchange.endsWith(`: ${exchange}`),
    )
    const [recorded] = left
    expect(recorded?.code).not.toBe(0)
    const registry = createRegistryClient(channel)
    const ask = (): Promise<unknown> => {
      if (recorded?.method.endsWith('Request')) {
        return createNsmClient(channel).request(
          fromBinary(NetworkServiceRequestSchema, recorded.sent[0]?.wire ?? new Uint8Array()),
        )
      }
      return recorded?.method.includes('Endpoint')
        ? registry.registerEndpoint({ name: 'any' })
        : registry.registerService({ name: 'any' })
    }
    const failure = await ask().catch((error: NsmError) => error)
    expect(failure).toMatchObject({ code, message: expect.stringContaining(text), next: expect.stringMatching(/.../) })
  })
})

const differences = (ours: readonly string[], theirs: readonly string[]) => ({
  ours: ours.filter((path) => !theirs.includes(path)),
  theirs: theirs.filter((path) => !ours.includes(path)),
})
