import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { interfaceJournalPath } from '../../src/connection/journal.ts'
import { type ConnectRequest, type ProgressStep, phases } from '../../src/daemon/protocol.ts'
import { type Runtime, startRuntime } from '../../src/daemon/runtime.ts'
import { type RunningServe, startServe } from '../../src/daemon/serve.ts'
import { openWorkloadApi } from '../../src/nsm/workload-api.ts'
import { createIdleMachine, type IdleMachine } from '../support/idle-machine.ts'

/* The background process without its socket, against a real `nsm serve` of the loopback; only this machine is a double. */

let dir: string
let serve: RunningServe
let runtime: Runtime
let machine: IdleMachine
const counts: number[] = []
const steps: ProgressStep[] = []
const { signal: never } = new AbortController()

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nsm-runtime-'))
  await writeFile(join(dir, 'resolv.conf'), 'nameserver 192.0.2.254\n')
  const home = join(dir, 'server')
  serve = await startServe(
    {
      ...{ service: 'blue', prefixes: ['10.64.0.0/16'], dnsDomain: 'blue.nsm.internal', listen: '127.0.0.1:0' },
      ...{ wireguardPort: 0, stateDir: home, runtimeDir: join(home, 'run') },
    },
    silentLog,
    never,
  )
  counts.length = 0
  steps.length = 0
  machine = createIdleMachine()
  runtime = await start()
})
afterEach(async () => {
  await runtime.close()
  await serve.stop()
  await rm(dir, { recursive: true })
})

const start = () =>
  startRuntime({
    settings: {
      stateDir: join(dir, 'state'),
      runtimeDir: dir,
      logLevel: 'error',
      resolvConf: join(dir, 'resolv.conf'),
    },
    ...{ clock: systemClock, log: silentLog, onCount: (count: number) => counts.push(count), machine },
  })

const wanted = (change: Partial<ConnectRequest> = {}): ConnectRequest => ({
  ...{ services: ['blue'], labels: {}, allowPrefixes: [], excludePrefixes: [], dnsMode: 'fanout', dns: 'off' },
  ...{ joinString: serve.joinString, timeoutMs: 60_000 },
  ...change,
})
const connect = (change: Partial<ConnectRequest> = {}, signal = never) =>
  runtime.connect(wanted(change), (step) => steps.push(step), signal)

describe('a connect', () => {
  test('gives the connection as it is, and how long each part of it took', async () => {
    const { connections, alreadyUp, steps: times, totalMs } = await connect({ name: 'laptop' })
    expect(connections).toMatchObject([
      {
        ...{ service: 'blue', state: 'up', addresses: ['10.64.0.1/32'], dnsDomains: ['blue.nsm.internal'] },
        ...{ dnsServers: ['10.64.0.0'], endpoint: 'blue-vl3', mtuBytes: 1_420, receivedBytes: 0, sentBytes: 0 },
        manager: `tcp://127.0.0.1:${serve.info.port}`,
      },
    ])
    expect(connections[0]?.error).toBeUndefined()
    expect(alreadyUp).toBe(false)
    expect(times.map(({ phase }) => phase)).toEqual(expect.arrayContaining(['identity', 'request', 'tunnel', 'routes']))
    expect(totalMs).toBeGreaterThanOrEqual(Math.max(...times.map(({ ms }) => ms)))
    expect(counts).toEqual([1])
  })

  test('tells each part when it begins and when it is done, and what came of it', async () => {
    await connect()
    await expect
      .poll(() => steps.filter(({ phase, state }) => phase === 'registry' && state === 'done'))
      .toHaveLength(1)
    for (const { phase, state } of steps) {
      expect(phases).toContain(phase)
      const begun = steps.findIndex((step) => step.phase === phase && step.state === 'started')
      const done = steps.findIndex((step) => step.phase === phase && step.state === 'done')
      expect([phase, state, begun >= 0 && (done < 0 || begun < done)]).toEqual([phase, state, true])
    }
    const detailOf = (phase: string) => steps.find((step) => step.phase === phase && step.state === 'done')?.detail
    expect(detailOf('registry')).toBe('1 endpoint')
    expect(detailOf('identity')).toMatch(/^spiffe:\/\/[^/]+\/member\//)
    expect(detailOf('request')).toBe('10.64.0.1/32')
  })

  test('that finds all it wants says so, and changes nothing', async () => {
    await connect()
    const before = [...machine.done]
    const again = await connect()
    expect(again).toMatchObject({ alreadyUp: true, connections: [{ service: 'blue', addresses: ['10.64.0.1/32'] }] })
    expect(machine.done).toEqual(before)
    expect(counts).toEqual([1])
  })

  test('of which one service fails leaves the other again', async () => {
    await expect(connect({ services: ['blue', 'nowhere'] })).rejects.toMatchObject({ code: 'NOT_FOUND' })
    expect((await runtime.status()).connections).toEqual([])
    expect(machine.done.filter((what) => what === 'open')).toHaveLength(
      machine.done.filter((what) => what === 'close').length,
    )
    expect(counts.at(-1)).toBe(0)
  })

  test('of which one service fails leaves alone what was up before', async () => {
    await connect()
    await expect(connect({ services: ['blue', 'nowhere'] })).rejects.toMatchObject({ code: 'NOT_FOUND' })
    expect((await runtime.status()).connections).toMatchObject([{ service: 'blue', state: 'up' }])
  })

  test('ends with the reason of its caller and leaves nothing', async () => {
    const stop = new AbortController()
    const connecting = connect({}, stop.signal)
    stop.abort(new NsmError('LOST', 'the caller went away', 'nothing'))
    await expect(connecting).rejects.toMatchObject({ message: 'the caller went away' })
    await expect.poll(async () => (await runtime.status()).connections).toEqual([])
    expect(machine.done.filter((what) => what.startsWith('configure'))).toEqual([])
  })

  test('that gets no identity in time says which part it was in', async () => {
    const deaf = createServer(() => {}).listen(0, '127.0.0.1')
    await once(deaf, 'listening')
    const address = deaf.address()
    const port = typeof address === 'object' ? address?.port : 0
    const joinString = serve.joinString.replace(`:${serve.info.port}`, `:${port}`)
    await expect(connect({ joinString, timeoutMs: 300 })).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: expect.stringContaining('identity: not done within 0.3 s'),
    })
    deaf.close()
  })

  test('writes its interface down before there is one, and takes it out with the last', async () => {
    await connect()
    expect(existsSync(interfaceJournalPath(join(dir, 'state')))).toBe(true)
    await runtime.disconnect({ services: [], force: false }, never)
    expect(existsSync(interfaceJournalPath(join(dir, 'state')))).toBe(false)
  })
})

describe('applications', () => {
  const spiffeSocket = () => `unix://${join(dir, 'workload.sock')}`

  test('get the identity of the connection for as long as it is there', async () => {
    expect(await connect()).toMatchObject({ spiffeSocket: spiffeSocket() })
    expect(await runtime.status()).toMatchObject({ spiffeSocket: spiffeSocket() })
    const source = await openWorkloadApi({ socket: spiffeSocket(), clock: systemClock, log: silentLog })
    expect(source.current().svid.spiffeId).toBe((await runtime.whoami()).spiffeId)
    await source.close()
    await runtime.disconnect({ services: [], force: false }, never)
    expect(existsSync(join(dir, 'workload.sock'))).toBe(false)
    expect(await runtime.status()).not.toHaveProperty('spiffeSocket')
  })

  test('get none when the connection could not be made', async () => {
    await expect(connect({ services: ['nowhere'] })).rejects.toMatchObject({ code: 'NOT_FOUND' })
    await expect.poll(() => existsSync(join(dir, 'workload.sock'))).toBe(false)
  })

  test('may use the name of their socket for further connects', async () => {
    await connect()
    const again = { workloadSocket: spiffeSocket(), manager: `tcp://127.0.0.1:${serve.info.port}` }
    const { joinString: _, ...request } = wanted(again)
    expect(await runtime.connect(request, () => {}, never)).toMatchObject({ alreadyUp: true })
  })
})

describe('the identity', () => {
  test('in use by a connection is neither replaced nor forgotten before that is left', async () => {
    await connect()
    const { spiffeId } = await runtime.whoami()
    expect(spiffeId).toMatch(/\/member\//)
    const where = { issuer: 'https://issuer.example', clientId: 'nsm-cli', store: 'none' as const }
    const login = { joinString: serve.joinString, idToken: 'a.b.c', ...where }
    await expect(runtime.login(login, never)).rejects.toMatchObject({
      code: 'CONFLICT',
      next: expect.stringContaining('disconnect'),
    })
    await expect(runtime.logout({ all: false })).rejects.toMatchObject({ code: 'CONFLICT' })
    await runtime.disconnect({ services: [], force: false }, never)
    expect((await runtime.logout({ all: false })).forgotten).toEqual([spiffeId])
    expect((await runtime.whoami()).spiffeId).toBeUndefined()
  })
})

describe('a disconnect', () => {
  test('leaves what it names, also by its URL, and says what that was', async () => {
    await connect()
    const leave = (...services: string[]) => runtime.disconnect({ services, force: false }, never)
    expect((await leave('green')).disconnected).toEqual([])
    expect((await leave('kernel://blue/nsm-1')).disconnected).toEqual(['blue'])
    expect((await leave('blue')).disconnected).toEqual([])
    expect(machine.done.at(-1)).toBe('close')
    expect(counts).toEqual([1, 0])
  })

  test('without a name leaves all; the address is the same when the machine comes back', async () => {
    const [first] = (await connect()).connections
    expect((await runtime.disconnect({ services: [], force: true }, never)).disconnected).toEqual(['blue'])
    const [second] = (await connect()).connections
    expect(second?.addresses).toEqual(first?.addresses)
  })
})

describe('status and list', () => {
  test('know nothing before the first connect, and no identity', async () => {
    expect(await runtime.status()).toEqual({
      apiVersion: 'nsm/status/v1',
      running: true,
      connections: [],
      warnings: [],
    })
    await expect(runtime.list({}, never)).rejects.toMatchObject({ code: 'IDENTITY' })
  })

  test('show identity, connections and services afterwards', async () => {
    await connect()
    const { identity, connections, warnings } = await runtime.status()
    expect(identity?.spiffeId).toMatch(`spiffe://${serve.info.trustDomain}/member/`)
    expect(identity?.notAfterMs).toBeGreaterThan(Date.now())
    expect(connections).toMatchObject([{ service: 'blue', state: 'up' }])
    expect(warnings).toEqual([])
    expect(await runtime.list({}, never)).toMatchObject({
      services: [{ name: 'blue', payload: 'IP', endpoints: [{ name: 'blue-vl3' }] }],
    })
    expect((await runtime.list({ pattern: 'b*e' }, never)).services).toHaveLength(1)
    expect((await runtime.list({ pattern: 'g*' }, never)).services).toEqual([])
  })
})

describe('the end of the background process', () => {
  test('leaves every service, and the next one takes the address over without a join string', async () => {
    const [first] = (await connect()).connections
    await runtime.close()
    expect(machine.done.at(-1)).toBe('close')
    runtime = await start()
    const { joinString: _, ...request } = wanted()
    const [second] = (await runtime.connect(request, () => {}, never)).connections
    expect(second?.addresses).toEqual(first?.addresses)
  })

  test('ends a connect that is under way with LOST', async () => {
    const connecting = connect()
    const ended = connecting.catch((error: unknown) => error)
    await runtime.close()
    expect(await ended).toMatchObject({ code: 'LOST' })
  })
})
