import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { type ErrorCode, errorTable, NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import type { Settings } from '../../src/base/settings.ts'
import { connectDaemon, type DaemonClient } from '../../src/daemon/client.ts'
import { daemonMethods, guardedMethods } from '../../src/daemon/daemon-methods.ts'
import { socketPath } from '../../src/daemon/paths.ts'
import type { ConnectRequest, ProgressStep } from '../../src/daemon/protocol.ts'
import { AbsentPeer } from '../../src/daemon/rpc-client.ts'
import { type Method, type RpcServer, startRpcServer } from '../../src/daemon/rpc-server.ts'
import { fakeContext } from '../commands/fake-context.ts'

let dir: string
let settings: Settings
const open: (RpcServer | DaemonClient)[] = []
const { signal: never } = new AbortController()

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nsm-client-'))
  settings = { stateDir: join(dir, 'state'), runtimeDir: dir, logLevel: 'error', resolvConf: join(dir, 'resolv.conf') }
})
afterEach(async () => {
  for (const one of open.splice(0).reverse()) await one.close()
  await rm(dir, { recursive: true })
})

/** A background process with these methods, and a client of it. */
async function serve(methods: Readonly<Record<string, Method>>): Promise<DaemonClient> {
  const parts = { path: socketPath(settings), guarded: guardedMethods, clock: systemClock, log: silentLog }
  open.push(await startRpcServer({ ...parts, methods }))
  const client = await connectDaemon(settings, { start: false })
  open.push(client)
  return client
}

/** The same behind a double of the runtime, which writes down what reaches it. */
async function serveDouble(failure?: Error) {
  const { context, recorded } = fakeContext(failure ? { failure } : {})
  const double = await context.connectDaemon(settings, { start: false })
  const version = async () => ({ version: '1', pid: 7 })
  return { client: await serve(daemonMethods({ ...double, version })), recorded }
}

const request: ConnectRequest = {
  ...{
    services: ['kernel://blue/nsm-1'],
    labels: { team: 'red' },
    allowPrefixes: ['198.51.100.0/24'],
    excludePrefixes: [],
  },
  ...{ dnsMode: 'fanout', dns: 'auto', timeoutMs: 5_000, manager: 'tcp://192.0.2.1:5001', name: 'laptop' },
}

describe('a background process that takes no calls', () => {
  const connectTo = async (callersUntilItEnds: number) => {
    let callers = 0
    const ending = createServer((socket) => {
      if (++callers >= callersUntilItEnds) ending.close()
      socket.on('error', () => {}).destroy()
    })
    await new Promise<void>((resolve) => ending.listen(socketPath(settings), resolve))
    const refused = await connectDaemon(settings, { start: false }).catch((error: unknown) => error)
    ending.close()
    return refused
  }

  test('is no absent one where it has no room', async () => {
    const refused = await connectTo(100)
    expect(refused).toMatchObject({ code: 'UNREACHABLE' })
    expect(refused).not.toBeInstanceOf(AbsentPeer)
  })

  test('is an absent one where it was about to end', async () => {
    expect(await connectTo(1)).toBeInstanceOf(AbsentPeer)
  })
})

describe('the background process over its socket', () => {
  test('gets the request of a connect as it was, and tells its progress and its result', async () => {
    const { client, recorded } = await serveDouble()
    const steps: ProgressStep[] = []
    const result = await client.connect(request, (step) => steps.push(step), never)
    expect(recorded.calls.find(({ name }) => name === 'connect')?.request).toEqual(request)
    expect(steps.map(({ phase, state }) => `${phase} ${state}`)).toEqual(['identity started', 'identity done'])
    expect(result).toMatchObject({ apiVersion: 'nsm/connect/v1', totalMs: 312, connections: [{ state: 'up' }] })
  })

  test('answers everything else that a command asks', async () => {
    const { client, recorded } = await serveDouble()
    expect(await client.status()).toMatchObject({ running: true, connections: [{ service: 'my-networkservice-1' }] })
    expect(await client.list({ pattern: 'b*' }, never)).toMatchObject({ services: [{ payload: 'IP' }] })
    expect((await client.disconnect({ services: [], force: true }, never)).disconnected).toEqual([
      'my-networkservice-1',
    ])
    expect(await client.version()).toEqual({ version: '1', pid: 7 })
    const asked = recorded.calls.filter(({ request: given }) => given !== undefined && given !== null)
    expect(asked).toMatchObject([
      { name: 'open' },
      { name: 'list', request: { pattern: 'b*' } },
      { name: 'disconnect', request: { services: [], force: true } },
    ])
  })

  test.each(Object.keys(errorTable).filter((code): code is ErrorCode => Object.hasOwn(errorTable, code)))(
    'keeps code, message and next step of %s',
    async (code) => {
      const { client } = await serveDouble(new NsmError(code, 'what happened', 'what to do'))
      await expect(client.connect(request, () => {}, never)).rejects.toMatchObject({
        ...{ code, message: 'what happened', next: 'what to do' },
      })
    },
  )

  test('refuses a request that is none before anything is done', async () => {
    const { client, recorded } = await serveDouble()
    const odd = { ...request, timeoutMs: 0 }
    await expect(client.connect(odd, () => {}, never)).rejects.toMatchObject({ code: 'USAGE' })
    expect(recorded.calls.filter(({ name }) => name === 'connect')).toEqual([])
  })

  test('hears when its caller gives up', async () => {
    const cancelled = Promise.withResolvers<unknown>()
    const client = await serve({
      version: async () => ({ version: '1', pid: 7 }),
      list: (_, { signal }) =>
        new Promise((_resolve, reject) =>
          signal.addEventListener('abort', () => {
            cancelled.resolve(signal.reason)
            reject(signal.reason)
          }),
        ),
    })
    const stop = new AbortController()
    const listing = client.list({}, stop.signal).catch((error: unknown) => error)
    stop.abort(new NsmError('LOST', 'interrupted', 'nothing'))
    await cancelled.promise
    expect(await listing).toBeInstanceOf(NsmError)
  })
})

describe('a background process of another version', () => {
  const version = async () => ({ version: '9', pid: 7 })
  const older = { apiVersion: 'nsm/other/v0' }

  test.each<[string, (client: DaemonClient) => Promise<unknown>]>([
    ['connect', (client) => client.connect(request, () => {}, never)],
    ['disconnect', (client) => client.disconnect({ services: [], force: false }, never)],
    ['status', (client) => client.status()],
    ['list', (client) => client.list({}, never)],
  ])('is told from its answer to %s, with what to do', async (method, ask) => {
    const client = await serve({ version, [method]: async () => older })
    await expect(ask(client)).rejects.toMatchObject({
      ...{ code: 'USAGE', message: 'the background process is of another version' },
      next: expect.stringContaining('nsm disconnect'),
    })
  })

  test('may send notes that nobody knows', async () => {
    const steps: ProgressStep[] = []
    const client = await serve({
      version,
      connect: async (_, { note }) => {
        note({ phase: 'identity', state: 'started', elapsedMs: 1 })
        note({ weather: 'fine' })
        return { apiVersion: 'nsm/connect/v1', connections: [], alreadyUp: true, steps: [], totalMs: 1 }
      },
    })
    expect(await client.connect(request, (step) => steps.push(step), never)).toMatchObject({ alreadyUp: true })
    expect(steps).toEqual([{ phase: 'identity', state: 'started', elapsedMs: 1 }])
  })
})
