import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { Server, ServerCredentials, type ServerWritableStream } from '@grpc/grpc-js'
import { afterEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { lastDomainPath } from '../../src/daemon/paths.ts'
import { Sessions } from '../../src/daemon/sessions.ts'
import {
  SpiffeWorkloadAPI,
  type X509SVIDResponse,
  X509SVIDResponseSchema,
} from '../../src/nsm/generated/workload_pb.js'
import { updateOf, workloadAuthority } from '../identity/workload-fixtures.ts'
import { methodDefinition } from '../support/grpc-js-method.ts'
import { scratchDir } from '../support/scratch.ts'

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

const manager = 'tcp://127.0.0.1:5001'
const signal = new AbortController().signal

async function sessionsIn(dir: string) {
  const settings = { stateDir: dir, runtimeDir: dir, logLevel: 'info' as const, resolvConf: join(dir, 'resolv.conf') }
  const sessions = new Sessions({ settings, clock: systemClock, log: silentLog })
  closers.push(() => sessions.close())
  return { sessions, settings }
}

/** A SPIFFE agent that gives one SVID. */
async function agent(dir: string): Promise<{ readonly socket: string; readonly calls: () => number }> {
  const { svid } = workloadAuthority('a.example')
  const { svids } = updateOf(svid('/laptop'))
  const socket = `unix://${join(dir, 'agent.sock')}`
  const server = new Server()
  let calls = 0
  server.addService(
    { FetchX509SVID: methodDefinition(SpiffeWorkloadAPI.method.fetchX509SVID) },
    {
      FetchX509SVID(stream: ServerWritableStream<unknown, X509SVIDResponse>) {
        calls++
        const given = svids.map(({ spiffeId, chain, privateKey, bundle, hint }) => {
          return { spiffeId, x509Svid: chain, x509SvidKey: privateKey, bundle, hint }
        })
        stream.write(create(X509SVIDResponseSchema, { svids: given }))
      },
    },
  )
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(socket, ServerCredentials.createInsecure(), (error) => (error ? reject(error) : resolve())),
  )
  closers.push(() => server.forceShutdown())
  return { socket, calls: () => calls }
}

describe('Sessions.open', () => {
  test('takes the identity of the SPIFFE agent when nothing else says who we are, and asks it once', async () => {
    const dir = await scratchDir()
    const { sessions } = await sessionsIn(dir)
    const { socket, calls } = await agent(dir)
    const first = await sessions.open({ workloadSocket: socket, manager }, signal)
    expect(first.source.current().svid.spiffeId).toBe('spiffe://a.example/laptop')
    expect(await sessions.open({ workloadSocket: socket, manager }, signal)).toBe(first)
    expect([first.url, calls()]).toEqual(['tcp://127.0.0.1:5001', 1])
  })

  test('prefers what was joined before to the agent, unless that was asked for by name', async () => {
    const dir = await scratchDir()
    const { sessions, settings } = await sessionsIn(dir)
    const { socket, calls } = await agent(dir)
    await mkdir(dirname(lastDomainPath(settings)), { recursive: true })
    await writeFile(lastDomainPath(settings), 'home.internal\n', { mode: 0o600 })
    await expect(sessions.open({ workloadSocket: socket, manager }, signal)).rejects.toMatchObject({ code: 'IDENTITY' })
    expect(calls()).toBe(0)
    const asked = await sessions.open({ workloadSocket: socket, workloadFirst: true, manager }, signal)
    expect(asked.source.current().svid.spiffeId).toBe('spiffe://a.example/laptop')
  })

  test("takes the agent's identity that was asked for", async () => {
    const dir = await scratchDir()
    const { sessions } = await sessionsIn(dir)
    const { socket: workloadSocket } = await agent(dir)
    const workloadId = 'spiffe://a.example/laptop'
    const session = await sessions.open({ workloadSocket, workloadId, manager }, signal)
    expect(session.source.current().svid.spiffeId).toBe(workloadId)
  })

  test.each([
    ['an agent', { workloadSocket: 'unix:///nowhere' }],
    ['SVID files', { svidFiles: { svidPem: '', keyPem: '', bundlePem: '' } }],
  ])('needs to be told whom to ask with %s', async (_, credentials) => {
    const { sessions } = await sessionsIn(await scratchDir())
    await expect(sessions.open(credentials, signal)).rejects.toMatchObject({
      code: 'USAGE',
      next: expect.stringContaining('--manager'),
    })
  })

  test('a join string counts before SVID files', async () => {
    const { sessions } = await sessionsIn(await scratchDir())
    const svidFiles = { svidPem: '', keyPem: '', bundlePem: '' }
    await expect(sessions.open({ joinString: 'nsm://?', svidFiles, manager }, signal)).rejects.toMatchObject({
      message: expect.stringContaining('join'),
    })
  })

  test('nothing at all is an IDENTITY error that says how to get one', async () => {
    const { sessions } = await sessionsIn(await scratchDir())
    await expect(sessions.open({}, signal)).rejects.toMatchObject({
      code: 'IDENTITY',
      next: expect.stringContaining('nsm invite'),
    })
  })
})
