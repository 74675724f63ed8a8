import { create } from '@bufbuild/protobuf'
import { afterEach, describe, expect, test } from 'vitest'
import { type Channel, openChannel, type Target } from '../../src/nsm/channel.ts'
import { ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import { NetworkService } from '../../src/nsm/generated/networkservice_pb.js'
import { NetworkServiceEndpointSchema } from '../../src/nsm/generated/registry_pb.js'
import { unary } from '../../src/nsm/grpc.ts'
import { RemoteHops } from '../../src/registry/next-hop.ts'
import { TestMesh } from '../nsm/mesh.ts'
import { createFakeClock } from '../support/fake-clock.ts'

const open: (() => unknown)[] = []
afterEach(async () => {
  for (const close of open.splice(0).reverse()) await close()
})

const endpointAt = (port: number, pathIds: string[] = []) =>
  create(NetworkServiceEndpointSchema, { name: 'nse', url: `tcp://127.0.0.1:${port}`, pathIds })
const connection = create(ConnectionSchema, { id: 'c-1' })

describe('hops to endpoints elsewhere', () => {
  async function start() {
    const mesh = new TestMesh()
    const closed: string[] = []
    const server = await mesh.serve(
      [
        unary(NetworkService.method.close, async ({ id }) => {
          closed.push(id)
          return {}
        }),
      ],
      mesh.source('/endpoint'),
    )
    const source = mesh.source('/manager')
    const remotes = new RemoteHops({
      dial: (target, expected) => openChannel({ target, source, clock: mesh.clock, expect: expected }),
      clock: mesh.clock,
    })
    open.push(
      () => mesh.close(),
      () => remotes.close(),
    )
    return { server, remotes, closed }
  }

  test('reach the server of the identity that registered the endpoint', async () => {
    const { server, remotes, closed } = await start()
    await remotes.hop(endpointAt(server.port), 'spiffe://test.internal/endpoint').close(connection)
    expect(closed).toEqual(['c-1'])
  })

  test('reach the first identity on the path of an entry that another registry passed on', async () => {
    const { server, remotes, closed } = await start()
    const endpoint = endpointAt(server.port, ['spiffe://test.internal/endpoint', 'spiffe://test.internal/server'])
    await remotes.hop(endpoint, 'spiffe://test.internal/server').close(connection)
    expect(closed).toEqual(['c-1'])
  })

  test.each(['spiffe://test.internal/member', 'spiffe://test.internal/endpoint-2', undefined])(
    'tell nothing to a server at the url that is not %s',
    async (owner) => {
      const { server, remotes, closed } = await start()
      const asked = remotes.hop(endpointAt(server.port), owner).close(connection)
      await expect(asked).rejects.toMatchObject({ code: 'IDENTITY' })
      expect(closed).toEqual([])
    },
  )
})

/** Channels that count; a call on one lasts until the test lets it go. */
function startCounted() {
  const clock = createFakeClock()
  const [opened, closed]: [number[], number[]] = [[], []]
  const calls: (() => void)[] = []
  const dial = ({ port }: Target): Channel => {
    opened.push(port)
    return {
      clock,
      ownId: () => undefined,
      unary: () => new Promise((_resolve, reject) => calls.push(() => reject(new RangeError('the call is let go')))),
      stream: (_method, _request, settings) => untilAborted(settings?.signal),
      duplex: (_method, _requests, settings) => untilAborted(settings?.signal),
      redial() {},
      close: () => void closed.push(port),
    }
  }
  const remotes = new RemoteHops({ dial, clock })
  const call = async (port: number) => {
    const asked = remotes.hop(endpointAt(port), 'spiffe://test.internal/e').close(connection)
    return { asked, end: calls.at(-1) ?? (() => {}) }
  }
  const callOnce = async (port: number) => {
    const { asked, end } = await call(port)
    end()
    await expect(asked).rejects.toThrow('let go')
  }
  return { clock, opened, closed, remotes, call, callOnce }
}

async function* untilAborted(signal: AbortSignal | undefined): AsyncGenerator<never, void> {
  await new Promise((resolve) => signal?.addEventListener('abort', resolve, { once: true }))
  yield* []
}

describe('channels to endpoints elsewhere', () => {
  test('serve calls one after the other, close when unused for a minute, and open again', async () => {
    const { clock, opened, closed, callOnce } = startCounted()
    await callOnce(1)
    await clock.advance(59_000)
    await callOnce(1)
    await clock.advance(59_000)
    expect([opened, closed]).toEqual([[1], []])
    await clock.advance(1_001)
    expect(closed).toEqual([1])
    await callOnce(1)
    expect(opened).toEqual([1, 1])
  })

  test('stay open while a watch lasts', async () => {
    const { clock, closed, remotes } = startCounted()
    const over = new AbortController()
    const { monitor } = remotes.hop(endpointAt(1), 'spiffe://test.internal/e')
    const watching = monitor?.({}, over.signal)[Symbol.asyncIterator]().next()
    await clock.advance(3_600_000)
    expect(closed).toEqual([])
    over.abort()
    await watching
    await clock.advance(60_001)
    expect(closed).toEqual([1, 1])
  })

  test('are not shared by two registrants of one url', async () => {
    const { opened, remotes } = startCounted()
    for (const owner of ['spiffe://test.internal/a', 'spiffe://test.internal/b']) {
      void remotes.hop(endpointAt(1), owner).close(connection)
    }
    expect(opened).toEqual([1, 1])
  })

  test('make room for the 257th by closing an unused one, and refuse it when all are in use', async () => {
    const { opened, closed, call, callOnce } = startCounted()
    await callOnce(1)
    for (let port = 2; port <= 256; port++) void (await call(port)).asked.catch(() => {})
    void (await call(257)).asked.catch(() => {})
    expect([opened.length, closed]).toEqual([257, [1]])
    const { asked } = await call(258)
    await expect(asked).rejects.toMatchObject({ code: 'UNREACHABLE', message: expect.stringContaining('256') })
  })
})
