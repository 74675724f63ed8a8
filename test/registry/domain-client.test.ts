import { clone, create } from '@bufbuild/protobuf'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import type { NsmClient } from '../../src/nsm/client.ts'
import {
  type Connection,
  ConnectionEventSchema,
  ConnectionEventType,
  ConnectionSchema,
  MechanismSchema,
} from '../../src/nsm/generated/connection_pb.js'
import { NetworkServiceEndpointSchema, NetworkServiceSchema } from '../../src/nsm/generated/registry_pb.js'
import { createDomainClient } from '../../src/registry/domain-client.ts'
import { firstRequest } from '../nsm/mesh.ts'
import { createFakeClock } from '../support/fake-clock.ts'

/** What a border manager is asked, and how it answers by the endpoint's name. */
function border(answers: Readonly<Record<string, NsmError | 'silent'>> = {}) {
  const requests: Connection[] = []
  const preferences: Record<string, string>[] = []
  const closed: Connection[] = []
  const client: NsmClient = {
    async request({ connection, mechanismPreferences }, signal) {
      const sent = clone(ConnectionSchema, connection ?? create(ConnectionSchema))
      requests.push(sent)
      preferences.push(...mechanismPreferences.map(({ parameters }) => parameters))
      const answer = answers[sent.networkServiceEndpointName]
      if (answer instanceof NsmError) throw answer
      if (answer === 'silent') {
        await new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason)))
      }
      const accepted = clone(ConnectionSchema, sent)
      accepted.mechanism = create(MechanismSchema, {
        type: 'WIREGUARD',
        parameters: mechanismPreferences[0]?.parameters ?? {},
      })
      return accepted
    },
    async close(connection) {
      closed.push(connection)
    },
    async *monitor() {
      const [last] = requests
      if (last) yield create(ConnectionEventSchema, { type: ConnectionEventType.UPDATE, connections: { c: last } })
    },
  }
  return { client, requests, preferences, closed }
}

const endpoint = (name: string, color = 'red') =>
  create(NetworkServiceEndpointSchema, {
    name,
    networkServiceNames: ['svc'],
    networkServiceLabels: { svc: { labels: { color } } },
  })
const service = create(NetworkServiceSchema, {
  name: 'svc',
  payload: 'IP',
  matches: [{ sourceSelector: {}, routes: [{ destinationSelector: { color: 'red' } }] }],
})

function setUp(answers?: Parameters<typeof border>[0], endpoints = [endpoint('ep-1'), endpoint('ep-2')]) {
  const far = border(answers)
  const asked: unknown[] = []
  const clock = createFakeClock()
  const client = createDomainClient({
    domain: 'far.test',
    client: far.client,
    clock,
    registry: {
      async findServices(query) {
        asked.push(query)
        return query.name === 'svc' ? [service] : []
      },
      async findEndpoints(query) {
        asked.push(query)
        return endpoints
      },
    },
  })
  return { ...far, client, asked, clock }
}

const ask = (change: Partial<Connection> = {}) => firstRequest({ networkService: 'svc@far.test', ...change })

describe('a client of another domain', () => {
  test('asks with bare names, a chosen endpoint and orig_src_ip, and answers with the names that were asked for', async () => {
    const { client, requests, preferences, asked } = setUp()
    const answer = await client.request(ask())
    expect(asked).toEqual([{ name: 'svc', payload: 'IP' }, { networkServiceNames: ['svc'] }])
    expect(requests).toMatchObject([{ networkService: 'svc', networkServiceEndpointName: 'ep-1', payload: 'IP' }])
    expect(preferences).toEqual([{ src_ip: '127.0.0.1', src_port: '51820', orig_src_ip: '127.0.0.1' }])
    expect(answer).toMatchObject({ networkService: 'svc@far.test', networkServiceEndpointName: 'ep-1@far.test' })
    expect(answer.mechanism?.parameters).toEqual({ src_ip: '127.0.0.1', src_port: '51820' })
  })

  test('leaves the request as it was', async () => {
    const { client } = setUp()
    const request = ask()
    const before = JSON.stringify(request)
    await client.request(request)
    expect(JSON.stringify(request)).toBe(before)
  })

  test('refreshes at the endpoint it has, marks its mechanism, and asks no registry', async () => {
    const { client, requests, asked } = setUp()
    const mechanism = create(MechanismSchema, {
      type: 'WIREGUARD',
      parameters: { src_ip: '192.0.2.1', dst_ip: '192.0.2.2' },
    })
    await client.request(ask({ networkServiceEndpointName: 'ep-9@far.test', mechanism }))
    expect(asked).toEqual([])
    expect(requests[0]).toMatchObject({ networkServiceEndpointName: 'ep-9' })
    expect(requests[0]?.mechanism?.parameters).toMatchObject({ src_ip: '192.0.2.1', orig_src_ip: '192.0.2.1' })
    expect(mechanism.parameters).not.toHaveProperty('orig_src_ip')
  })

  test('lets an orig_src_ip stand, and leaves other mechanisms alone', async () => {
    const { client, preferences } = setUp()
    const kernel = create(MechanismSchema, { type: 'KERNEL', parameters: { src_ip: '192.0.2.1' } })
    const moved = create(MechanismSchema, {
      type: 'WIREGUARD',
      parameters: { src_ip: '192.0.2.1', orig_src_ip: '10.0.0.1' },
    })
    const none = create(MechanismSchema, { type: 'WIREGUARD', parameters: {} })
    await client.request({ ...ask(), mechanismPreferences: [kernel, moved, none] })
    expect(preferences).toEqual([{ src_ip: '192.0.2.1' }, { src_ip: '192.0.2.1', orig_src_ip: '10.0.0.1' }, {}])
  })

  test('takes turns among the endpoints that the labels select', async () => {
    const { client, requests } = setUp({}, [endpoint('ep-1'), endpoint('blue', 'blue'), endpoint('ep-2')])
    for (let i = 0; i < 3; i++) await client.request(ask())
    expect(requests.map((sent) => sent.networkServiceEndpointName)).toEqual(['ep-1', 'ep-2', 'ep-1'])
  })

  test('asks the next endpoint when one refuses, and tells the last refusal', async () => {
    const full = new NsmError('REFUSED', 'full', 'wait')
    const one = setUp({ 'ep-1': full })
    expect((await one.client.request(ask())).networkServiceEndpointName).toBe('ep-2@far.test')
    const none = setUp({ 'ep-1': new NsmError('REFUSED', 'first', 'wait'), 'ep-2': full })
    await expect(none.client.request(ask())).rejects.toBe(full)
    expect(none.requests).toHaveLength(2)
  })

  test('waits only so long for an endpoint that another one can stand in for', async () => {
    const { client, clock } = setUp({ 'ep-1': 'silent' })
    const asking = client.request(ask())
    await clock.advance(5_000)
    expect((await asking).networkServiceEndpointName).toBe('ep-2@far.test')
  })

  test('asks nobody any more once its caller has left', async () => {
    const { client, requests } = setUp({ 'ep-1': 'silent' })
    const stop = new AbortController()
    const asking = client.request(ask(), stop.signal)
    await expect.poll(() => requests.length).toBe(1)
    const reason = new RangeError('enough')
    stop.abort(reason)
    await expect(asking).rejects.toBe(reason)
    expect(requests).toHaveLength(1)
  })

  test.each([
    ['without the service', ask({ networkService: 'absent@far.test' }), 'network service absent@far.test is not found'],
    ['without an endpoint', ask(), 'network service endpoint candidates not found'],
  ])('says NOT_FOUND in the words of NSM %s', async (_what, request, message) => {
    const { client } = setUp({}, [])
    await expect(client.request(request)).rejects.toMatchObject({ code: 'NOT_FOUND', message })
  })

  test('closes with bare names', async () => {
    const { client, closed } = setUp()
    const [connection] = [ask({ networkServiceEndpointName: 'ep-1@far.test' }).connection]
    await client.close(connection ?? expect.fail())
    expect(closed).toMatchObject([{ networkService: 'svc', networkServiceEndpointName: 'ep-1' }])
  })

  test('gives the names of events their domain', async () => {
    const { client } = setUp()
    await client.request(ask())
    const seen = []
    for await (const event of client.monitor({})) seen.push(event)
    expect(seen).toMatchObject([
      {
        type: ConnectionEventType.UPDATE,
        connections: { c: { networkService: 'svc@far.test', networkServiceEndpointName: 'ep-1@far.test' } },
      },
    ])
  })
})
