import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { Server, ServerCredentials, type ServerWritableStream, status } from '@grpc/grpc-js'
import { afterEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import type { WorkloadUpdate } from '../../src/identity/workload-state.ts'
import {
  SpiffeWorkloadAPI,
  type X509SVIDResponse,
  X509SVIDResponseSchema,
} from '../../src/nsm/generated/workload_pb.js'
import { openWorkloadApi } from '../../src/nsm/workload-api.ts'
import { updateOf, workloadAuthority } from '../identity/workload-fixtures.ts'
import { methodDefinition } from '../support/grpc-js-method.ts'
import { scratchDir } from '../support/scratch.ts'

const { authority, svid } = workloadAuthority('a.example')
const other = workloadAuthority('b.example')
const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

type Stream = ServerWritableStream<unknown, X509SVIDResponse>

/** A Workload API on a socket; `onStream` plays each stream. */
async function serve(address: string, onStream: (stream: Stream, count: number) => void) {
  const server = new Server()
  const definition = methodDefinition(SpiffeWorkloadAPI.method.fetchX509SVID)
  let count = 0
  server.addService(
    { FetchX509SVID: definition },
    {
      FetchX509SVID(stream: Stream) {
        count++
        onStream(stream, count)
      },
    },
  )
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(address, ServerCredentials.createInsecure(), (error) => (error ? reject(error) : resolve())),
  )
  closers.push(() => server.forceShutdown())
  return server
}

const open = async (socket: string, choice = {}) => {
  const source = await openWorkloadApi({ socket, choice, clock: systemClock, log: silentLog })
  closers.push(() => source.close())
  return source
}
const messageOf = ({ svids, federatedBundles }: WorkloadUpdate) =>
  create(X509SVIDResponseSchema, {
    svids: svids.map(({ spiffeId, chain, privateKey, bundle, hint }) => {
      return { spiffeId, x509Svid: chain, x509SvidKey: privateKey, bundle, hint }
    }),
    federatedBundles: { ...federatedBundles },
  })
const fail = (stream: Stream, code: status) => void stream.emit('error', { code, details: 'no' })
const socketIn = async () => `unix://${join(await scratchDir(), 'agent.sock')}`

describe('openWorkloadApi', () => {
  test('asks with the security header and gets the identity with all bundles', async () => {
    const socket = await socketIn()
    const headers: unknown[] = []
    const federatedBundles = { 'spiffe://b.example': other.authority.rootDer }
    await serve(socket, (stream) => {
      headers.push(stream.metadata.get('workload.spiffe.io'))
      stream.write(messageOf({ ...updateOf(svid('/one')), federatedBundles }))
    })
    const { svid: own, bundles } = (await open(socket)).current()
    expect(headers).toEqual([['true']])
    expect(own.spiffeId).toBe('spiffe://a.example/one')
    expect(Buffer.from(bundles.get('a.example')?.[0] ?? []).equals(authority.rootDer)).toBe(true)
    expect([...bundles.keys()].sort()).toEqual(['a.example', 'b.example'])
  })

  test('follows the stream: a rotation, a withdrawal', async () => {
    const socket = await socketIn()
    const streams: Stream[] = []
    await serve(socket, (stream) => {
      streams.push(stream)
      stream.write(messageOf(updateOf(svid('/one'))))
    })
    const source = await open(socket)
    const before = source.current().svid
    const rotated = new Promise((resolve) => source.onChange(resolve))
    streams[0]?.write(messageOf(updateOf(svid('/one'))))
    await rotated
    expect(source.current().svid.privateKey.equals(before.privateKey)).toBe(false)
    streams[0]?.write(messageOf(updateOf()))
    await expect.poll(() => isUsable(source)).toBe(false)
  })

  test('takes the SVID with the hint', async () => {
    const socket = await socketIn()
    await serve(socket, (stream) => stream.write(messageOf(updateOf(svid('/one'), svid('/two', 'internal')))))
    expect((await open(socket, { hint: 'internal' })).current().svid.spiffeId).toBe('spiffe://a.example/two')
  })

  test('speaks over TCP too', async () => {
    const server = new Server()
    const definition = methodDefinition(SpiffeWorkloadAPI.method.fetchX509SVID)
    const FetchX509SVID = (stream: Stream) => void stream.write(messageOf(updateOf(svid('/one'))))
    server.addService({ FetchX509SVID: definition }, { FetchX509SVID })
    const port = await new Promise<number>((resolve) =>
      server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (_error, bound) => resolve(bound)),
    )
    closers.push(() => server.forceShutdown())
    expect((await open(`tcp://127.0.0.1:${port}`)).current().svid.spiffeId).toBe('spiffe://a.example/one')
  })

  test('waits for the registration, and for the agent itself', async () => {
    const socket = await socketIn()
    const opening = open(socket)
    await serve(socket, (stream, count) => {
      if (count === 1) fail(stream, status.PERMISSION_DENIED)
      else stream.write(messageOf(updateOf(svid('/one'))))
    })
    expect((await opening).current().svid.spiffeId).toBe('spiffe://a.example/one')
  })

  test('keeps the identity while the agent restarts and follows the new one', async () => {
    const socket = await socketIn()
    const first = await serve(socket, (stream) => stream.write(messageOf(updateOf(svid('/one')))))
    const source = await open(socket)
    const changed = new Promise((resolve) => source.onChange(resolve))
    first.forceShutdown()
    expect(source.current().svid.spiffeId).toBe('spiffe://a.example/one')
    await serve(socket, (stream) => stream.write(messageOf(updateOf(svid('/two')))))
    await changed
    expect(source.current().svid.spiffeId).toBe('spiffe://a.example/two')
  })

  test.each([status.INVALID_ARGUMENT, status.UNIMPLEMENTED])('gives up at once on status %i', async (code) => {
    const socket = await socketIn()
    await serve(socket, (stream) => fail(stream, code))
    await expect(open(socket)).rejects.toMatchObject({ code: 'USAGE' })
  })

  test('refuses an address that is none', async () => {
    await expect(open('localhost:8000')).rejects.toMatchObject({ code: 'USAGE' })
  })
})

function isUsable(source: Awaited<ReturnType<typeof open>>): boolean {
  try {
    source.current()
    return true
  } catch {
    return false
  }
}
