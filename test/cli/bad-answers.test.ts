import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { runCommandLine } from '../../src/commands/main.ts'
import { type Runtime, startRuntime } from '../../src/daemon/runtime.ts'
import { certificatesToPem } from '../../src/identity/pem.ts'
import { signToken } from '../../src/identity/token.ts'
import { type Connection, ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import { NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import { fakeContext } from '../commands/fake-context.ts'
import { TestMesh } from '../nsm/mesh.ts'
import { frame } from '../support/grpc-frames.ts'
import { createIdleMachine } from '../support/idle-machine.ts'
import { type ScriptedCall, type ScriptedServer, startScriptedServer } from '../support/scripted-server.ts'

/* `nsm connect` from its command line down to TLS, against a manager whose answers are made by hand. Only the machine is a
 * double, so that a refused answer can be seen to have changed nothing. */

const mesh = new TestMesh()
const manager = mesh.issue('/manager').svid
const stranger = mesh.issue('/manager').svid
const idOf = (path: string) => `spiffe://test.internal${path}`
const tokenMs = 600_000
const machine = createIdleMachine()
let dir: string
let server: ScriptedServer
let runtime: Runtime
/** What the manager does with a Request. */
let onRequest: (call: ScriptedCall) => void
/** What it does with a query of its registry. */
let onFind: (call: ScriptedCall) => void
/** What it does with one who watches connections. */
let onMonitor: (call: ScriptedCall) => void

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nsm-bad-'))
  const { svid, bundles } = mesh.issue('/laptop')
  await writeFile(join(dir, 'svid.pem'), certificatesToPem(svid.chain))
  await writeFile(join(dir, 'key.pem'), svid.privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 })
  await writeFile(join(dir, 'bundle.pem'), certificatesToPem([...bundles.values()].flat()))
  await writeFile(join(dir, 'resolv.conf'), 'nameserver 192.0.2.254\n')
  server = await startScriptedServer(manager, (call) => {
    if (call.method.endsWith('/Request')) return onRequest(call)
    if (call.method.endsWith('/Find')) return onFind(call)
    if (call.method.endsWith('/MonitorConnections')) return onMonitor(call)
    if (call.method.endsWith('/Close')) {
      call.send(new Uint8Array())
      call.end()
    }
  })
  runtime = await startRuntime({
    settings: {
      stateDir: join(dir, 'state'),
      runtimeDir: dir,
      logLevel: 'error',
      resolvConf: join(dir, 'resolv.conf'),
    },
    ...{ clock: systemClock, log: silentLog, onCount: () => {}, machine },
  })
})
afterAll(async () => {
  await runtime.close()
  await server.close()
  await rm(dir, { recursive: true })
})
beforeEach(() => {
  onFind = (call) => call.end()
  onMonitor = () => {}
  machine.done.length = 0
})

/** An honest answer: two hops, an address, a route, a tunnel. */
function honest(
  call: ScriptedCall,
  change: (connection: Connection) => unknown = () => {},
  lifeMs = tokenMs,
): Uint8Array {
  const { connection } = fromBinary(NetworkServiceRequestSchema, call.request)
  const expires = timestampFromMs(Date.now() + lifeMs)
  const token = signToken({ svid: manager, audience: idOf('/laptop'), expiresMs: Date.now() + tokenMs })
  const [first] = connection?.path?.pathSegments ?? []
  const answer = create(ConnectionSchema, {
    id: connection?.id ?? '',
    networkService: 'blue',
    payload: 'IP',
    networkServiceEndpointName: 'blue-1',
    mechanism: {
      ...{ cls: 'REMOTE', type: 'WIREGUARD' },
      parameters: { dst_ip: '127.0.0.1', dst_port: '51820', dst_public_key: Buffer.alloc(32, 7).toString('base64') },
    },
    context: {
      ipContext: {
        srcIpAddrs: ['10.64.0.1/32'],
        dstIpAddrs: ['10.64.0.0/32'],
        srcRoutes: [{ prefix: '10.64.0.0/16', nextHop: '10.64.0.0' }],
      },
      dnsContext: { configs: [{ dnsServerIps: ['10.64.0.0'], searchDomains: ['blue.nsm.internal'] }] },
      MTU: 1_420,
    },
    path: {
      pathSegments: [
        { name: first?.name ?? '', id: first?.id ?? '', token: String(call.metadata['nsm-client-token']), expires },
        { name: 'manager', id: 'manager-0', token, expires },
      ],
    },
  })
  change(answer)
  return toBinary(ConnectionSchema, answer)
}

const answering = (change?: (connection: Connection) => unknown) => (call: ScriptedCall) => {
  call.send(honest(call, change))
  call.end()
}

/** Runs the command; its exit code and its one JSON document. */
async function nsm(...args: readonly string[]) {
  const { context, recorded } = fakeContext()
  const connectDaemon = async () => ({ ...runtime, close: async () => {} })
  const exitCode = await runCommandLine([...args, '--json'], { ...context, connectDaemon, environment: {} })
  return { exitCode, result: JSON.parse(recorded.out.join('')) }
}
const connect = (timeout = '10s') =>
  nsm(
    'connect',
    'blue',
    '--manager',
    `tcp://127.0.0.1:${server.port}`,
    '--svid-dir',
    dir,
    '--dns',
    'off',
    '--timeout',
    timeout,
  )
const callsOf = (method: string) => server.seen.filter((seen) => seen.endsWith(`/${method}`)).length

/** After anything that was refused: the machine is as before, and an honest answer connects. */
async function expectUnharmed(): Promise<void> {
  expect(machine.done.filter((what) => /configure|update/.test(what))).toEqual([])
  expect(machine.done.filter((what) => what === 'open')).toHaveLength(
    machine.done.filter((what) => what === 'close').length,
  )
  onRequest = answering()
  expect(await connect()).toMatchObject({ exitCode: 0, result: { connections: [{ service: 'blue', state: 'up' }] } })
  expect(machine.done).toContain('configure 10.64.0.1/32')
  expect(await nsm('disconnect', '--all')).toMatchObject({ exitCode: 0 })
  expect(machine.done.at(-1)).toBe('close')
}

const setToken = (at: number, token: string) => (connection: Connection) => {
  const segment = connection.path?.pathSegments[at]
  if (segment) segment.token = token
}
const tokenOf = (parts: Partial<Parameters<typeof signToken>[0]>) =>
  signToken({ svid: manager, audience: idOf('/laptop'), expiresMs: Date.now() + tokenMs, ...parts })
const routes =
  (...prefixes: readonly string[]) =>
  ({ context }: Connection) => {
    for (const prefix of prefixes)
      context?.ipContext?.srcRoutes.push({ $typeName: 'connectioncontext.Route', prefix, nextHop: '' })
  }

describe('nsm connect, when the answer', () => {
  test.each<readonly [string, (connection: Connection) => unknown, string]>([
    ['routes everything', routes('0.0.0.0/0'), '0.0.0.0/0 is a default route'],
    ['routes everything in halves', routes('0.0.0.0/1', '128.0.0.0/1'), 'default route'],
    ['routes all of IPv6', routes('::/0'), 'default route'],
    [
      'has 10,000 routes',
      routes(...Array.from({ length: 10_000 }, (_, i) => `10.${i >> 8}.${i & 255}.0/24`)),
      'prefixes',
    ],
    ['has an MTU of 68', ({ context }) => Object.assign(context ?? {}, { MTU: 68 }), 'MTU 68'],
    ['claims every name', ({ context }) => context?.dnsContext?.configs[0]?.searchDomains.push('.'), 'DNS zone'],
    [
      'speaks a mechanism that nobody asked for',
      ({ mechanism }) => Object.assign(mechanism ?? {}, { type: 'VXLAN' }),
      'WireGuard',
    ],
    ['has no mechanism', (connection) => delete connection.mechanism, 'WireGuard'],
    ['gives nothing of its side', ({ mechanism }) => Object.assign(mechanism ?? {}, { parameters: {} }), 'WireGuard'],
    [
      'has half a key',
      ({ mechanism }) => Object.assign(mechanism?.parameters ?? {}, { dst_public_key: 'AAAA' }),
      'dst_public_key',
    ],
    ['has no address', ({ context }) => context?.ipContext?.srcIpAddrs.splice(0), 'no address'],
    ['has no token', setToken(1, ''), 'no sufficient privileges: tokens_valid'],
    ['has an expired token', setToken(1, tokenOf({ expiresMs: Date.now() - 5_000 })), 'tokens_expired'],
    [
      'has a token for somebody else',
      setToken(0, tokenOf({ svid: mesh.issue('/laptop').svid, audience: idOf('/other') })),
      'tokens_chained',
    ],
    ['is signed with another key', setToken(1, tokenOf({ svid: stranger })), 'next_token_signed'],
    [
      'names another than it is signed by',
      setToken(1, tokenOf({ svid: { ...manager, spiffeId: idOf('/other') } })),
      'tokens_chained',
    ],
    ['has a path without the manager', ({ path }) => path?.pathSegments.splice(1), 'next_token_signed'],
    ['has no path', (connection) => delete connection.path, 'next_token_signed'],
  ])('%s: REFUSED, exit code 5, and it says why', async (_what, change, why) => {
    onRequest = answering(change)
    const closed = callsOf('Close')
    const { exitCode, result } = await connect()
    expect(result.error).toMatchObject({ code: 'REFUSED', message: expect.stringContaining(why) })
    expect(exitCode).toBe(5)
    expect(callsOf('Close')).toBeGreaterThan(closed)
    await expectUnharmed()
  })
})

describe('nsm connect, when the manager', () => {
  test.each<readonly [string, (call: ScriptedCall) => void]>([
    ['accepts and never answers', () => {}],
    ['sends half a message and waits', (call) => call.sendBytes(frame(honest(call)).subarray(0, 40))],
    [
      'sends half a message and resets the stream',
      (call) => {
        call.sendBytes(frame(honest(call)).subarray(0, 40))
        call.reset()
      },
    ],
    [
      'sends half a message and goes away',
      (call) => {
        call.sendBytes(frame(honest(call)).subarray(0, 40))
        call.disconnect()
      },
    ],
    [
      'ends in the middle of a message',
      (call) => {
        call.sendBytes(frame(honest(call)).subarray(0, 40))
        call.end()
      },
    ],
    ['goes away without a word', (call) => call.disconnect()],
    [
      'sends what is no message',
      (call) => {
        call.send(Buffer.alloc(64, 0xff))
        call.end()
      },
    ],
    ['says OK without an answer', (call) => call.end()],
  ])('%s: UNREACHABLE, exit code 7, and few requests', async (_what, act) => {
    onRequest = act
    const before = callsOf('Request')
    const { exitCode, result } = await connect('700ms')
    expect([exitCode, result.error?.code, result.error?.message]).toEqual([
      7,
      'UNREACHABLE',
      expect.stringMatching(/./),
    ])
    expect(callsOf('Request') - before).toBeLessThanOrEqual(5)
    await expectUnharmed()
  })

  test('answers with a message of 5 MiB: REFUSED unread', async () => {
    onRequest = (call) => {
      call.send(Buffer.alloc(5 * 1024 * 1024))
      call.end()
    }
    const { exitCode, result } = await connect()
    expect([exitCode, result.error]).toEqual([5, expect.objectContaining({ code: 'REFUSED' })])
    expect(result.error.message).toContain('larger than max')
    await expectUnharmed()
  })
})

describe('a connection that is up, when the answer to its refresh', () => {
  /** Its lease asks for the next refresh after a second. */
  const briefMs = 4_000
  const brief = (change?: (connection: Connection) => unknown) => (call: ScriptedCall) => {
    call.send(honest(call, change, briefMs))
    call.end()
  }
  const seen = async () =>
    (await runtime.status()).connections.map(({ state, error }) => ({ state, code: error?.code }))

  const everything = (connection: Connection) => {
    routes('0.0.0.0/0')(connection)
    connection.context?.dnsContext?.configs[0]?.searchDomains.push('.')
    Object.assign(connection.context ?? {}, { MTU: 68 })
  }
  const many = routes(...Array.from({ length: 10_000 }, (_, i) => `10.${i >> 8}.${i & 255}.0/24`))

  test.each<readonly [string, (connection: Connection) => unknown, string, readonly string[]]>([
    ['wants everything', everything, 'up', ['0.0.0.0/0 is a default route', 'MTU 68', 'DNS zone']],
    ['has 10,000 routes', many, 'healing', ['prefixes']],
    ['is signed with another key', setToken(1, tokenOf({ svid: stranger })), 'healing', ['next_token_signed']],
  ])('%s: stays as it was and says why', async (_what, change, state, why) => {
    onRequest = brief()
    expect(await connect()).toMatchObject({ exitCode: 0 })
    const before = [...machine.done]
    const closed = callsOf('Close')
    onRequest = brief(change)
    await expect.poll(seen).toEqual([{ state, code: 'REFUSED' }])
    const [view] = (await runtime.status()).connections
    expect(view).toMatchObject({ addresses: ['10.64.0.1/32'], routes: ['10.64.0.0/16'], mtuBytes: 1_420 })
    for (const reason of why) expect(view?.error?.message).toContain(reason)
    expect([machine.done, callsOf('Close')]).toEqual([before, closed])
    onRequest = brief()
    await expect.poll(seen).toEqual([{ state: 'up', code: undefined }])
    expect(machine.done.filter((what) => /^(configure|update|unconfigure|close)/.test(what))).toEqual([
      'configure 10.64.0.1/32',
    ])
    expect(await nsm('disconnect', '--all')).toMatchObject({ exitCode: 0 })
  })
})

describe('a connection that is up, when the stream of its events', () => {
  test.each<readonly [string, (call: ScriptedCall) => void]>([
    [
      'breaks off in the middle of an event',
      (call) => {
        call.sendBytes(frame(Buffer.alloc(100)).subarray(0, 30))
        call.reset()
      },
    ],
    ['has an event that is none', (call) => call.send(Buffer.alloc(16, 0xff))],
    ['ends', (call) => call.end()],
  ])('%s: is renewed, and the machine stays as it was', async (_what, act) => {
    let left = 1
    onMonitor = (call) => {
      if (left-- > 0) act(call)
    }
    onRequest = answering()
    const requested = callsOf('Request')
    expect(await connect()).toMatchObject({ exitCode: 0 })
    await expect.poll(() => callsOf('Request') - requested).toBe(2)
    await expect.poll(async () => (await runtime.status()).connections[0]?.state).toBe('up')
    expect(machine.done).toEqual(['open', 'configure 10.64.0.1/32'])
    expect(await nsm('disconnect', '--all')).toMatchObject({ exitCode: 0 })
  })
})

test('a manager that gives no stream of events is gone without: the connection stays as it was', async () => {
  onMonitor = (call) => call.end(12, 'no such method')
  onRequest = answering()
  const [requested, watched] = [callsOf('Request'), callsOf('MonitorConnections')]
  expect(await connect()).toMatchObject({ exitCode: 0 })
  await expect.poll(() => callsOf('MonitorConnections') - watched).toBe(1)
  expect((await runtime.status()).connections).toMatchObject([{ state: 'up' }])
  expect(await nsm('disconnect', '--all')).toMatchObject({ exitCode: 0 })
  expect(callsOf('Request') - requested).toBe(1)
})

describe('a registry that accepts and never answers', () => {
  test('does not delay a connect', async () => {
    onFind = () => {}
    await expectUnharmed()
  })

  test('does not hold `nsm list` beyond its caller', async () => {
    onFind = () => {}
    onRequest = answering()
    expect(await connect()).toMatchObject({ exitCode: 0 })
    const stop = new AbortController()
    const listing = runtime.list({}, stop.signal)
    stop.abort(new Error('enough'))
    await expect(listing).rejects.toThrow()
    expect(await nsm('disconnect', '--all')).toMatchObject({ exitCode: 0 })
  })
})
