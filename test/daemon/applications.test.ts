import { once } from 'node:events'
import { existsSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { dirname, join } from 'node:path'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { createLog, silentLog } from '../../src/base/log.ts'
import { Applications } from '../../src/daemon/applications.ts'
import { canReadCredentials } from '../../src/daemon/peer-credentials.ts'
import { openWorkloadSocket, type WorkloadSocketSettings } from '../../src/daemon/workload-socket.ts'
import { createFixedSource } from '../../src/identity/fixed-source.ts'
import { openWorkloadApi } from '../../src/nsm/workload-api.ts'
import type { TokenSource } from '../../src/nsm/workload-jwt.ts'
import { workloadService } from '../../src/nsm/workload-service.ts'
import { authorityOf, identityOf } from '../identity/fixtures.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { scratchDir } from '../support/scratch.ts'

const a = authorityOf('a.example')
const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

let path: string
let sources: TokenSource[]
let applications: Applications
beforeEach(async () => {
  path = join(await scratchDir(), 'workload.sock')
  sources = []
  applications = open(path)
})
const open = (at: string) => {
  const opened = new Applications({ path: at, sources: () => sources, clock: systemClock, log: silentLog })
  closers.push(() => opened.close())
  return opened
}
const follow = async () => {
  const source = await openWorkloadApi({ socket: `unix://${path}`, clock: systemClock, log: silentLog })
  closers.push(() => source.close())
  return source
}
const nextOf = (source: TokenSource) => new Promise((resolve) => source.onChange(resolve))

describe('the Workload API of this machine', () => {
  test('is there from the first connection to the last', async () => {
    await applications.follow()
    expect([applications.address, existsSync(path)]).toEqual([undefined, false])
    sources = [createFixedSource(identityOf(a, '/app'))]
    await applications.follow()
    expect(applications.address).toBe(`unix://${path}`)
    expect((await follow()).current().svid.spiffeId).toBe('spiffe://a.example/app')
    sources = []
    await applications.follow()
    expect([applications.address, existsSync(path)]).toEqual([undefined, false])
  })

  test('ends open streams with the last connection and takes them up with the next', async () => {
    sources = [createFixedSource(identityOf(a, '/app'))]
    await applications.follow()
    const client = await follow()
    sources = []
    await applications.follow()
    sources = [createFixedSource(identityOf(a, '/other'))]
    const changed = nextOf(client)
    await applications.follow()
    await changed
    expect(client.current().svid.spiffeId).toBe('spiffe://a.example/other')
  })

  test('follows a renewal, a second identity, and the end of the first', async () => {
    const first = createFixedSource(identityOf(a, '/one'))
    sources = [first]
    await applications.follow()
    const client = await follow()
    const renewed = nextOf(client)
    first.set(identityOf(a, '/one'))
    await renewed
    expect(client.current().svid.privateKey.equals(first.current().svid.privateKey)).toBe(true)
    sources = [first, createFixedSource(identityOf(a, '/two'))]
    await applications.follow()
    expect(applications.current().map(({ svid }) => svid.spiffeId)).toEqual([
      'spiffe://a.example/one',
      'spiffe://a.example/two',
    ])
    sources = sources.slice(1)
    await applications.follow()
    await expect.poll(() => client.current().svid.spiffeId).toBe('spiffe://a.example/two')
  })

  test('tells of no change where there was none', async () => {
    sources = [createFixedSource(identityOf(a, '/app'))]
    await applications.follow()
    let told = 0
    applications.onChange(() => told++)
    sources = [...sources]
    await applications.follow()
    expect(told).toBe(0)
  })

  test('gives one identity of two managers once, and an expired one not at all', async () => {
    const state = identityOf(a, '/app')
    const expired = createFixedSource(identityOf(a, '/old'), { ...systemClock, wallMs: () => Date.now() + 7_200_000 })
    sources = [expired, createFixedSource(state), createFixedSource(state)]
    await applications.follow()
    expect(applications.current().map(({ svid }) => svid)).toEqual([state.svid])
  })

  test('takes the place of a socket that a killed process left', async () => {
    writeFileSync(path, '')
    sources = [createFixedSource(identityOf(a, '/app'))]
    await applications.follow()
    expect((await follow()).current().svid.spiffeId).toBe('spiffe://a.example/app')
  })

  test('that cannot be served is a warning, no failure', async () => {
    const lost = open(join(path, 'in', 'no', 'folder', 'workload.sock'))
    sources = [createFixedSource(identityOf(a, '/app'))]
    await lost.follow()
    expect(lost.address).toBeUndefined()
    expect(lost.warnings).toEqual([expect.stringMatching(/^applications get no identity: cannot listen on/)])
  })

  test('is closed for good: a connection that comes too late opens nothing', async () => {
    await applications.close()
    sources = [createFixedSource(identityOf(a, '/app'))]
    await applications.follow()
    expect([applications.address, existsSync(path)]).toEqual([undefined, false])
  })

  test('keeps one order though connections come and go at once', async () => {
    const turns = Array.from({ length: 20 }, (_, i) => {
      sources = i % 2 === 0 ? [createFixedSource(identityOf(a, '/app'))] : []
      return applications.follow()
    })
    await Promise.all(turns)
    expect([applications.address, existsSync(path)]).toEqual([undefined, false])
  })

  test('ends well though its socket is gone', async () => {
    sources = [createFixedSource(identityOf(a, '/app'))]
    await applications.follow()
    await rm(path)
    await applications.close()
    expect(applications.address).toBeUndefined()
  })
})

describe('something that speaks no HTTP/2 to the socket', () => {
  test('is cut, and nobody else notices', async () => {
    sources = [createFixedSource(identityOf(a, '/app'))]
    await applications.follow()
    const honest = await follow()
    const start = fc.constantFrom('', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')
    const bytes = fc.uint8Array({ minLength: 64, maxLength: 512 })
    await fc.assert(
      fc.asyncProperty(start, bytes, async (preface, noise) => {
        const socket = connect(path)
        socket.on('error', () => {})
        socket.end(Buffer.concat([Buffer.from(preface), noise]))
        socket.resume()
        await new Promise((resolve) => socket.once('close', resolve))
      }),
      { numRuns: 300 },
    )
    const renewed = nextOf(honest)
    sources = [createFixedSource(identityOf(a, '/app'))]
    await applications.follow()
    await renewed
  })
})

describe('a connect in a shell that uses this socket', () => {
  const request = {
    ...{ services: ['blue'], labels: {}, allowPrefixes: [], excludePrefixes: [], timeoutMs: 1 },
    ...({ dnsMode: 'fanout', dns: 'off' } as const),
  }

  test('does not ask it who we are', () => {
    for (const workloadSocket of [`unix://${path}`, `unix:${path}`]) {
      expect(applications.withAgent({ ...request, workloadSocket })).toEqual(request)
    }
    expect(() => applications.withAgent({ ...request, workloadSocket: `unix://${path}`, workloadFirst: true })).toThrow(
      /is the socket of nsm itself/,
    )
  })

  test('does not ask it by another way to it', async () => {
    sources = [createFixedSource(identityOf(a, '/app'))]
    await applications.follow()
    const link = join(await scratchDir(), 'run')
    symlinkSync(dirname(path), link)
    for (const other of [join(link, 'workload.sock'), `${dirname(path)}/../${path.split('/').at(-2)}/workload.sock`])
      expect(applications.withAgent({ ...request, workloadSocket: `unix://${other}` })).toEqual(request)
  })

  test('asks the agent that was asked before', () => {
    const first = { ...request, workloadSocket: 'unix:///run/agent.sock', workloadHint: 'x' }
    expect(applications.withAgent(first)).toBe(first)
    expect(applications.withAgent({ ...request, workloadSocket: `unix://${path}` })).toEqual({
      ...request,
      workloadSocket: 'unix:///run/agent.sock',
    })
  })
})

const isRoot = process.getuid?.() === 0
const title = canReadCredentials() ? 'the socket' : 'the socket: skipped, this system does not say who calls'

describe.skipIf(!canReadCredentials())(title, () => {
  const own = process.getuid?.() ?? 0
  const stranger = 12_345
  const serve = async (
    uid: number | undefined,
    admitted: number[] = [],
    parts: Partial<WorkloadSocketSettings> = {},
  ) => {
    const socket = await openWorkloadSocket({
      path,
      methods: workloadService(applications),
      isAdmitted: (one) => admitted.includes(one),
      clock: systemClock,
      log: silentLog,
      ...parts,
      credentialsOf: () => (uid === undefined ? undefined : { pid: 1, uid, gid: uid }),
    })
    closers.push(() => socket.close())
  }
  /** True when the server says something: its HTTP/2 settings. */
  const isServed = async () => {
    const socket = connect(path)
    closers.push(() => socket.destroy())
    socket.on('error', () => {})
    socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0')
    return new Promise<boolean>((resolve) => {
      socket.once('data', () => resolve(true))
      socket.once('close', () => resolve(false))
    })
  }

  test.each([
    ['the own user', own, [], true],
    ['root', 0, [], true],
    ['who connected with sudo', stranger, [stranger], true],
    ['another user', stranger, [], false],
    ['another user beside one who connected with sudo', stranger + 1, [stranger], false],
    ['nobody knows who', undefined, [], false],
  ] as const)('lets in or not: %s', async (_who, uid, admitted, expected) => {
    await serve(uid, [...admitted])
    expect(await isServed()).toBe(expected)
  })

  test('is open to other users only for a process of root, which asks the kernel about each', async () => {
    await serve(own)
    expect((statSync(path).mode & 0o777).toString(8)).toBe(isRoot ? '666' : '600')
  })

  test('says once of each other user that it was refused, and to the audit each time', async () => {
    const lines: string[] = []
    const log = createLog({ level: 'info', format: 'json', write: (line) => lines.push(line), wallMs: Date.now })
    const record = vi.fn()
    await serve(stranger, [], { log, audit: { record } })
    for (let count = 0; count < 5; count++) expect(await isServed()).toBe(false)
    expect(lines).toEqual([expect.stringContaining(`uid ${stranger}`)])
    expect(record.mock.calls).toEqual(Array(5).fill([{ event: 'socket.deny', uid: stranger, method: 'workload' }]))
  })

  test('ends a connection that says nothing for 5 s, and no other', async () => {
    const clock = createFakeClock(Date.now())
    await serve(own, [], { clock })
    const [silent, speaking] = [connect(path), connect(path)]
    closers.push(() => speaking.destroy())
    const ended = once(silent.resume(), 'close')
    speaking.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0')
    // Its settings, and that ours have come.
    for (let bytes = 0; bytes < 40; ) bytes += (await once(speaking, 'data'))[0].length
    await clock.advance(5_000)
    await ended
    speaking.write('\0\0\x08\x06\0\0\0\0\0'.padEnd(17, '\0'))
    expect((await once(speaking, 'data'))[0].at(3)).toBe(6)
  })

  test('serves 64 connections at a time', async () => {
    await serve(own)
    for (let count = 0; count < 64; count++) expect(await isServed()).toBe(true)
    expect(await isServed()).toBe(false)
  })
})
