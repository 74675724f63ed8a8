import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { openEndpointStore } from '../../src/endpoint/store.ts'
import { createVl3, type Vl3 } from '../../src/endpoint/vl3.ts'
import { signToken } from '../../src/identity/token.ts'
import { type Connection, ConnectionEventSchema, ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import { NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import { NetworkServiceEndpointSchema, NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import { TestMesh } from '../nsm/mesh.ts'
import { startManagerRig } from '../registry/manager-rig.ts'
import { openFakeHub } from '../support/fake-hub.ts'
import { jsonOf, schemaOf, shapeOf } from '../support/recorded-messages.ts'
import { type RecordedCall, readRecording } from '../support/recordings.ts'
import { openWireCaller, type WireAnswer, type WireCaller } from '../support/wire-caller.ts'

/* Our registry, manager and vL3 endpoint, sent the bytes that NSM's own client sent. Only a refresh and a close are changed:
 * they carry the connection that we answered, as their client sends back what it was answered. */

const mesh = new TestMesh('peers.test')
const ownId = 'spiffe://peers.test/ours'
const requestMethod = '/networkservice.NetworkService/Request'
const closeMethod = '/networkservice.NetworkService/Close'
const permissionDenied = 7
let vl3: Vl3
let client: WireCaller

beforeAll(async () => {
  const { clock } = mesh
  const source = mesh.source('/ours')
  const { svid } = source.current()
  vl3 = await createVl3({
    ...{ service: 'vl3', prefixes: ['10.77.0.0/24'], dnsDomain: 'vl3', endpointName: 'ours-1' },
    ...{ listenAddress: '127.0.0.1', listenPort: 0, reachableAt: () => '127.0.0.1', clock, log: silentLog },
    ownToken: (audience) => {
      const expiresMs = clock.wallMs() + 600_000
      return { token: signToken({ svid, audience, expiresMs }), expiresMs }
    },
    store: openEndpointStore(':memory:'),
    openHub: async (config) => openFakeHub(config),
  })
  mesh.onClose(() => vl3.stop())
  const localEndpoint = (name: string) => (name === 'ours-1' ? vl3 : undefined)
  const { registry, server } = await startManagerRig(mesh, { source, localEndpoint })
  for (const [service, endpoint, owner] of [
    ['vl3', 'ours-1', ownId],
    ['direct', 'direct-1', 'spiffe://peers.test/other'],
  ] as const) {
    registry.registerService(create(NetworkServiceSchema, { name: service, payload: 'IP' }), owner)
    const entry = { name: endpoint, networkServiceNames: [service], url: 'tcp://127.0.0.1:1' }
    registry.registerEndpoint(create(NetworkServiceEndpointSchema, entry), owner, clock.wallMs() + 86_400_000)
  }
  client = await openWireCaller(server, mesh.issue('/client').svid, ownId)
  mesh.onClose(() => client.close())
})
afterAll(() => mesh.close())

/** Sends the bytes of a recorded call. */
function send(call: RecordedCall, wire: Uint8Array = call.sent[0]?.wire ?? new Uint8Array()): Promise<WireAnswer> {
  const path = call.metadata['path'] === undefined ? {} : { path: call.metadata['path'] }
  return client.call(call.method, wire, path)
}

describe('our registry, sent what a client of NSM sent', () => {
  const { calls } = readRecording('registry')
  const isWatch = ({ sent }: RecordedCall) => JSON.stringify(sent[0]?.json).includes('"watch":true')

  test('answers each call in the recorded order with as many messages and the same fields', async () => {
    const inTurn = calls.filter((call) => !isWatch(call))
    expect(inTurn).toHaveLength(12)
    for (const call of inTurn) {
      const answer = await send(call)
      expect(answer, call.method).toMatchObject({ code: 0 })
      expect(answer.messages).toHaveLength(call.received.length)
      for (const [at, { type, json }] of call.received.entries()) {
        const schema = schemaOf(type)
        const ours = jsonOf(schema, fromBinary(schema, answer.messages[at] ?? new Uint8Array()))
        expect(shapeOf(ours), call.method).toEqual(shapeOf(json))
      }
      expect(answer.header['path'] !== undefined).toBe(call.header['path'] !== undefined)
    }
  })

  test('shows the same changes in the same order to a watch', async () => {
    const watch = calls.find(isWatch) ?? expect.fail()
    const changes = client.watch(watch.method, watch.sent[0]?.wire ?? new Uint8Array())
    const [registerService] = calls.filter(({ method }) => method.endsWith('NetworkServiceRegistry/Register'))
    await send(registerService ?? expect.fail())
    const registrations = calls.filter(({ method }) => /EndpointRegistry\/(Register|Unregister)$/.test(method))
    expect(registrations).toHaveLength(watch.received.length)
    for (const [at, { type, json }] of watch.received.entries()) {
      expect((await send(registrations[at] ?? expect.fail())).code).toBe(0)
      const { value } = await changes.next()
      const ours = jsonOf(schemaOf(type), fromBinary(schemaOf(type), value ?? new Uint8Array()))
      expect(shapeOf(ours)).toEqual(shapeOf(json))
    }
    await changes.return()
  })
})

describe('our manager and endpoint, sent what a client of NSM sent', () => {
  const { calls } = readRecording('manager')
  const of = (method: string) => calls.filter((call) => call.method === method)
  const [first, refresh] = of(requestMethod)
  const [close] = of(closeMethod)
  const monitor = calls.find(({ method }) => method.endsWith('/MonitorConnections')) ?? expect.fail()

  /** The recorded message with our answer for a connection. */
  const refreshing = (answer: Connection) => {
    const request = fromBinary(NetworkServiceRequestSchema, refresh?.sent[0]?.wire ?? new Uint8Array())
    return toBinary(NetworkServiceRequestSchema, { ...request, connection: answer })
  }
  const connectionIn = (answer: WireAnswer) => fromBinary(ConnectionSchema, answer.messages[0] ?? new Uint8Array())

  test('give the fields theirs give, keep them at a refresh, show it to a monitor, and close', async () => {
    const events = client.watch(monitor.method, monitor.sent[0]?.wire ?? new Uint8Array())
    const seen: unknown[] = []
    const see = async () => {
      const { value } = await events.next()
      const event = fromBinary(ConnectionEventSchema, value ?? new Uint8Array())
      seen.push(jsonOf(ConnectionEventSchema, event))
    }
    await see()
    const answered = await send(first ?? expect.fail())
    expect(answered).toMatchObject({ code: 0 })
    const given = connectionIn(answered)
    await see()
    expect(vl3.members()).toMatchObject([{ spiffeId: 'spiffe://peers.test/client', label: 'recorder' }])
    const again = connectionIn(await send(refresh ?? expect.fail(), refreshing(given)))
    await see()
    expect(again.path?.pathSegments.map(({ id }) => id)).toEqual(given.path?.pathSegments.map(({ id }) => id))
    expect(again.context?.ipContext).toEqual(given.context?.ipContext)
    expect((await send(close ?? expect.fail(), toBinary(ConnectionSchema, again))).code).toBe(0)
    await see()
    expect(vl3.members()).toEqual([])
    await events.return()
    expect(different(jsonOf(ConnectionSchema, given), first?.received[0]?.json)).toEqual(withoutMetrics(''))
    for (const [at, { json }] of monitor.received.entries()) {
      expect(different(seen[at], json)).toEqual(at === 0 ? { ours: [], theirs: [] } : withoutMetrics('.connections.*'))
    }
  })

  test('close what they never knew without an error, as theirs do', async () => {
    expect((await send(close ?? expect.fail())).code).toBe(0)
  })
})

describe('our servers, sent what programs of NSM refused', () => {
  const { calls } = readRecording('refused')

  test.each([
    ['unknown service', 5, 'network service nowhere is not found'],
    ['unknown endpoint', 5, 'nobody'],
    ['another id than its segment', 9, 'should be equal'],
    ['no path', permissionDenied, 'no sufficient privileges: prev_token_signed'],
    ['unknown mechanism', 9, 'mechanism'],
    ['another payload', 5, 'network service vl3 is not found'],
    ['registration without a path', permissionDenied, 'no sufficient privileges'],
    ['endpoint of another identity', permissionDenied, 'no sufficient privileges'],
    ['service of another identity', permissionDenied, 'no sufficient privileges: client_allowed'],
  ])('%s: refused with code %i', async (exchange, code, text) => {
    const call = calls.find((one) => one.exchange === `refused: ${exchange}`) ?? expect.fail()
    expect(call.code).toBeGreaterThan(0)
    const { code: said, message } = await send(call)
    expect({ said, message }).toEqual({ said: code, message: expect.stringContaining(text) })
    expect(vl3.members()).toEqual([])
  })

  test.each(['no token', 'registration without a token'])('%s: a matter of privileges', async (exchange) => {
    const call = calls.find((one) => one.exchange === `refused: ${exchange}`) ?? expect.fail()
    const path = call.metadata['path'] === undefined ? {} : { path: call.metadata['path'] }
    const nobody = { 'nsm-client-token': undefined, 'nsm-client-token-expires': undefined }
    const answer = await client.call(call.method, call.sent[0]?.wire ?? new Uint8Array(), { ...nobody, ...path })
    expect([answer.code, answer.message]).toEqual([
      permissionDenied,
      expect.stringContaining('no sufficient privileges'),
    ])
  })
})

/** Fields that only one side gives. */
function different(ours: unknown, theirs: unknown) {
  const [own, other] = [shapeOf(ours), shapeOf(theirs)]
  return { ours: own.filter((path) => !other.includes(path)), theirs: other.filter((path) => !own.includes(path)) }
}

/** Only the forwarders' names of interfaces are theirs alone. */
function withoutMetrics(at: string) {
  return { ours: [], theirs: [`${at}.path.path_segments[].metrics.*`] }
}
