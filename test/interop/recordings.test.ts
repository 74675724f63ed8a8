import { X509Certificate } from 'node:crypto'
import { fromBinary, toBinary } from '@bufbuild/protobuf'
import { describe, expect, test } from 'vitest'
import { readLease } from '../../src/connection/request.ts'
import { decodeToken, verifyToken } from '../../src/identity/token.ts'
import { type Connection, ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import { refreshDelayMs } from '../../src/nsm/path.ts'
import { failedClientPolicy } from '../../src/nsm/policies.ts'
import { parseRegistrationPath } from '../../src/registry/path-header.ts'
import { jsonOf, schemaOf } from '../support/recorded-messages.ts'
import { readRecording, recordingNames } from '../support/recordings.ts'

/* What NSM's programs sent and answered, read by our code. `npm run record` made the files; here nothing needs Go. */

const minuteMs = 60_000
const answersOf = (name: 'manager' | 'direct') => {
  const recording = readRecording(name)
  const requests = recording.calls.filter(({ method }) => method === '/networkservice.NetworkService/Request')
  return { recording, answers: requests.flatMap(({ received }) => received.map(({ wire }) => wire)) }
}
const read = (wire: Uint8Array): Connection => fromBinary(ConnectionSchema, wire)
const offer = { sourceAddress: '127.0.0.1', listenPort: 51_820, publicKey: new Uint8Array(32), mtuBytes: 1_420 }

describe.each(recordingNames)('the recording %s', (name) => {
  const { calls, versions, atMs } = readRecording(name)

  test('names its versions and its time', () => {
    expect(Object.keys(versions).sort()).toEqual(['api', 'go', 'grpc', 'sdk'])
    expect(atMs).toBeGreaterThan(Date.parse('2025-01-01'))
  })

  test('means to us what it means to them, field by field', () => {
    const messages = calls.flatMap(({ sent, received }) => [...sent, ...received])
    expect(messages.length).toBeGreaterThan(8)
    for (const { type, wire, json } of messages) {
      const schema = schemaOf(type)
      expect(schema.typeName).toBe(type)
      expect(withoutNanos(jsonOf(schema, fromBinary(schema, wire)))).toEqual(withoutNanos(json))
    }
  })

  test('is written by us with as many bytes, nothing lost and nothing added', () => {
    for (const { type, wire } of calls.flatMap(({ sent, received }) => [...sent, ...received])) {
      const again = toBinary(schemaOf(type), fromBinary(schemaOf(type), wire))
      expect(Buffer.from(again).sort()).toEqual(Buffer.from(wire).sort())
    }
  })
})

describe.each([
  ['manager', 'spiffe://peers.test/nsmgr', ['recorder', 'nsmgr-1', 'forwarder-1', 'vl3-1']],
  ['direct', 'spiffe://peers.test/vl3', ['recorder', 'direct-1']],
] as const)('an answer of the recording %s', (name, server, hops) => {
  const { recording, answers } = answersOf(name)
  const certificate = recording.certificates.get(server) ?? new Uint8Array()
  const verdict = (wire: Uint8Array, nowMs: number) => {
    const { path } = read(wire)
    const segments = path?.pathSegments ?? []
    return failedClientPolicy({
      segments,
      index: path?.index ?? 0,
      peerCertificate: certificate,
      peerId: server,
      nowMs,
    })
  }

  test('has every hop on its path, and passes every policy at its time', () => {
    expect(answers).toHaveLength(2)
    for (const wire of answers) {
      expect(read(wire).path?.pathSegments.map((segment) => segment.name)).toEqual(hops)
      expect(verdict(wire, recording.atMs)).toBeUndefined()
    }
  })

  test('is refused by name: a quarter of an hour later, for another server, with another certificate', () => {
    const [wire = Buffer.alloc(0)] = answers
    expect(verdict(wire, recording.atMs + 15 * minuteMs)).toBe('tokens_expired')
    const { path } = read(wire)
    const input = { segments: path?.pathSegments ?? [], index: 0, peerCertificate: certificate, nowMs: recording.atMs }
    expect(failedClientPolicy({ ...input, peerId: 'spiffe://peers.test/other' })).toBe('sub_is_peer')
    const other = recording.certificates.get('spiffe://peers.test/registry') ?? new Uint8Array()
    expect(failedClientPolicy({ ...input, peerCertificate: other, peerId: server })).toBe('next_token_signed')
  })

  test('gives a tunnel, addresses and names, in whatever order its routes come', () => {
    for (const wire of answers) {
      const lease = readLease(read(wire), { offer, purpose: 'first', nowMs: recording.atMs })
      expect(lease.peer).toMatchObject({ address: '127.0.0.1', port: 51_820 })
      expect(lease.peer.publicKey).toHaveLength(32)
      expect(lease.endpointName).toBe(hops.at(-1))
      const net = name === 'manager' ? '10.77.0' : '10.78.0'
      const { addresses, endpointAddresses, routes, dns } = lease.answer
      expect(addresses).toEqual([expect.stringMatching(new RegExp(`^${net}\\.[12]/32$`))])
      expect(endpointAddresses).toEqual([`${net}.0/32`])
      expect(new Set(routes)).toEqual(new Set([`${net}.0/32`, `${net}.0/24`, `${net.replace(/\.0$/, '')}.0.0/16`]))
      expect(dns).toEqual([{ servers: [`${net}.${name === 'manager' ? 1 : 0}`], domains: [read(wire).networkService] }])
      expect(lease.mtuBytes).toBe(1_420)
    }
  })

  test('is refreshed after a fifth of its life, and ends when its tokens do', () => {
    for (const wire of answers) {
      const connection = read(wire)
      expect(connection.path?.index).toBe(0)
      expect(refreshDelayMs(connection.path, recording.atMs) / minuteMs).toBeCloseTo(2, 1)
      const lease = readLease(connection, { offer, purpose: 'first', nowMs: recording.atMs })
      expect((lease.expiresMs - recording.atMs) / minuteMs).toBeCloseTo(10, 1)
    }
  })

  test('keeps ids and addresses when it is refreshed', () => {
    const [first, second] = answers.map(read)
    expect(second?.path?.pathSegments.map(({ id }) => id)).toEqual(first?.path?.pathSegments.map(({ id }) => id))
    expect(second?.context?.ipContext).toEqual(first?.context?.ipContext)
    expect(second?.mechanism).toEqual(first?.mechanism)
  })
})

describe('a registration path of the recording', () => {
  const { calls, certificates } = readRecording('registry')
  const headers = calls.flatMap(({ header }) => (header['path'] === undefined ? [] : [header['path']]))

  test('has the token of the client and that of the registry, each for the other', () => {
    expect(headers).toHaveLength(5)
    for (const header of headers) {
      const { index, tokens } = parseRegistrationPath(header)
      expect(index).toBe(0)
      expect(tokens.map(decodeToken)).toMatchObject([
        { sub: 'spiffe://peers.test/client', aud: ['spiffe://peers.test/registry'] },
        { sub: 'spiffe://peers.test/registry', aud: ['spiffe://peers.test/client'] },
      ])
    }
  })

  test('is signed by the certificate the registry showed', () => {
    const certificate = certificates.get('spiffe://peers.test/registry') ?? new Uint8Array()
    expect(new X509Certificate(certificate).subjectAltName).toBe('URI:spiffe://peers.test/registry')
    for (const header of headers) {
      const [own = '', theirs = ''] = parseRegistrationPath(header).tokens
      expect(verifyToken(theirs, certificate)).toBe(true)
      expect(verifyToken(own, certificate)).toBe(false)
    }
  })
})

/** Both write 0, 3, 6 or 9 digits after the second, theirs with the zeros of the nine. */
function withoutNanos(json: unknown): unknown {
  return JSON.parse(JSON.stringify(json).replace(/(T\d\d:\d\d:\d\d)\.\d+Z/g, '$1Z'))
}
