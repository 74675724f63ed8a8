import { existsSync, statSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect as connectSocket, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { daemonMethods, guardedMethods } from '../../src/daemon/daemon-methods.ts'
import type { DaemonApi } from '../../src/daemon/protocol.ts'
import { connectRpc, SilentPeer } from '../../src/daemon/rpc-client.ts'
import { type Method, type RpcServer, type RpcServerSettings, startRpcServer } from '../../src/daemon/rpc-server.ts'
import { fakeLoginApi } from '../commands/fake-login.ts'
import { fakeTunnelApi } from '../commands/fake-tunnel.ts'
import { FakeClock, settle } from '../connection/fake-clock.ts'

let dir: string
let path: string
let server: RpcServer | undefined
const clock = new FakeClock()

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nsm-rpc-'))
  path = join(dir, 'nsm.sock')
})

afterEach(async () => {
  await server?.close()
  server = undefined
  await rm(dir, { recursive: true, force: true })
})

async function serve(methods: Record<string, Method>, more: Partial<RpcServerSettings> = {}) {
  server = await startRpcServer({ path, methods, guarded: [], clock, log: silentLog, ...more })
  return connectRpc(path)
}

describe('a background process that hangs', () => {
  /** Accepts, reads and says nothing. */
  async function silentServer(): Promise<{ readonly close: () => void }> {
    const sockets = new Set<Socket>()
    const hung = createServer((socket) => sockets.add(socket.on('error', () => {}).resume()))
    await new Promise<void>((resolve) => hung.listen(path, resolve))
    return {
      close() {
        for (const socket of sockets) socket.destroy()
        hung.close()
      },
    }
  }

  test('is UNREACHABLE after the time the call may take', async () => {
    const hung = await silentServer()
    const rpc = await connectRpc(path, clock)
    const failed = expect(rpc.call('connect', {}, { timeoutMs: 25_000 })).rejects.toMatchObject({
      code: 'UNREACHABLE',
      message: 'the background process does not answer',
    })
    await clock.advance(25_000)
    await failed
    await Promise.all([rpc.close(), clock.advance(1_000)])
    hung.close()
  })

  test('is not waited for when the caller gives up', async () => {
    const hung = await silentServer()
    const rpc = await connectRpc(path, clock)
    const stop = new AbortController()
    const failed = expect(rpc.call('connect', {}, { timeoutMs: 3_600_000, signal: stop.signal })).rejects.toMatchObject(
      { code: 'UNREACHABLE' },
    )
    stop.abort()
    await clock.advance(5_000)
    await failed
    hung.close()
  })

  test('is not started a second time', async () => {
    await expect(connectRpc(path)).rejects.not.toBeInstanceOf(SilentPeer)
    const hung = await silentServer()
    const rpc = await connectRpc(path, clock)
    const failed = expect(rpc.call('version', {})).rejects.toBeInstanceOf(SilentPeer)
    await clock.advance(10_000)
    await failed
    hung.close()
  })
})

describe('the socket server', () => {
  test('answers calls, each with its own number, in any order', async () => {
    const later = Promise.withResolvers<void>()
    const rpc = await serve({
      slow: async () => {
        await later.promise
        return { who: 'slow' }
      },
      quick: async (parameters) => ({ parameters }),
    })
    const slow = rpc.call('slow', {})
    expect(await rpc.call('quick', { a: 1 })).toEqual({ parameters: { a: 1 } })
    later.resolve()
    expect(await slow).toEqual({ who: 'slow' })
    await rpc.close()
  })

  test('passes on notes while a call runs, and errors with code and next step', async () => {
    const rpc = await serve({
      fail: async (_, { note }) => {
        note({ step: 1 })
        note({ step: 2 })
        throw new NsmError('CONFLICT', 'taken', 'choose another')
      },
    })
    const notes: object[] = []
    const call = rpc.call('fail', {}, { note: (note) => notes.push(note) })
    await expect(call).rejects.toMatchObject({ code: 'CONFLICT', message: 'taken', next: 'choose another' })
    expect(notes).toEqual([{ step: 1 }, { step: 2 }])
    await rpc.close()
  })

  test('cancels a call when the caller asks for it, and all calls when the caller goes away', async () => {
    const aborted: string[] = []
    const hang: Method = (_, { signal }) =>
      new Promise((_, reject) => {
        signal.addEventListener('abort', () => {
          aborted.push('aborted')
          reject(signal.reason)
        })
      })
    const rpc = await serve({ hang })
    const stop = new AbortController()
    const call = rpc.call('hang', {}, { signal: stop.signal })
    await settle()
    stop.abort()
    await expect(call).rejects.toMatchObject({ code: 'NOT_READY' })
    const left = rpc.call('hang', {}).catch((error: unknown) => error)
    await settle()
    await rpc.close()
    expect(await left).toMatchObject({ code: 'UNREACHABLE' })
    await settle()
    expect(aborted).toEqual(['aborted', 'aborted'])
  })

  test('refuses guarded methods to other users and lets them see nothing of the connections', async () => {
    const uid = 65_534
    const rpc = await serve(daemonMethods(fakeApi), {
      guarded: guardedMethods,
      credentialsOf: () => ({ pid: 1, uid, gid: uid }),
    })
    for (const method of guardedMethods) {
      await expect(rpc.call(method, {})).rejects.toMatchObject({ code: 'PERMISSION' })
    }
    expect(await rpc.call('status', {})).toMatchObject({ running: true, connections: [] })
    expect(await rpc.call('version', {})).toEqual({ version: '1', pid: 1 })
    await rpc.close()
  })

  test('knows its own user by the kernel’s word', async () => {
    const rpc = await serve(daemonMethods(fakeApi), { guarded: guardedMethods })
    expect(await rpc.call('disconnect', { services: [], force: false })).toMatchObject({ disconnected: ['blue'] })
    expect(statSync(path).mode & 0o777).toBe(0o666)
    await rpc.close()
  })

  test('carries the calls of nsm dns, and refuses parameters it does not know', async () => {
    const rpc = await serve(daemonMethods(fakeApi), { guarded: guardedMethods })
    expect(await rpc.call('dnsStatus', {})).toEqual({ apiVersion: 'nsm/dns-status/v1' })
    expect(await rpc.call('dnsTrace', { name: 'a.b', type: 'A' })).toMatchObject({ name: 'a.b', type: 'A' })
    expect(await rpc.call('dnsFlush', {})).toMatchObject({ forgotten: 3 })
    for (const wrong of [{}, { name: 'a.b' }, { name: 1, type: 'A' }, { name: 'a', type: 'A', more: 1 }]) {
      await expect(rpc.call('dnsTrace', wrong)).rejects.toMatchObject({ code: 'USAGE' })
    }
    await rpc.close()
  })

  test('trusts nobody when the kernel’s word cannot be had for a connection', async () => {
    const rpc = await serve(daemonMethods(fakeApi), { guarded: guardedMethods, credentialsOf: () => undefined })
    await expect(rpc.call('connect', {})).rejects.toMatchObject({ code: 'PERMISSION' })
    await rpc.close()
  })

  test.each([['{}\n'], ['not json\n'], ['{"id":"1","method":"x"}\n'], ['[]\n']])(
    'ends a connection that sends %j',
    async (text) => {
      const rpc = await serve({})
      await rpc.close()
      expect(await rawAnswer(text)).toContain('"code":"USAGE"')
    },
  )

  test('ends a connection that says nothing for 5 s', async () => {
    await (await serve({})).close()
    const socket = connectSocket(path)
    const closed = new Promise((resolve) => socket.once('close', resolve))
    await new Promise((resolve) => socket.once('connect', resolve))
    await settle()
    await clock.advance(5_000)
    await closed
  })

  describe('of whom the caller reads no answers', () => {
    const long = async () => ({ text: 'x'.repeat(500_000) })
    /** Asks until it is cut, or often enough. */
    const ask = async (times: number) => {
      const caller = connectSocket(path).pause()
      let isCut = false
      caller
        .on('error', () => {})
        .once('close', () => {
          isCut = true
        })
      for (let id = 0; id < times && !isCut; id++) {
        caller.write(`${JSON.stringify({ id, method: 'long', params: {} })}\n`)
        await settle()
      }
      return { caller, isCut }
    }

    test('ends in time all the same', async () => {
      const rpc = await serve({ long })
      const { caller } = await ask(3)
      await rpc.call('long', {})
      const closed = server?.close()
      await settle()
      await clock.advance(500)
      await closed
      caller.destroy()
    })

    test('cuts the connection before the answers fill the memory', async () => {
      await serve({ long })
      expect((await ask(1_000)).isCut).toBe(true)
    })
  })

  test('takes 64 connections and closes the next ones', async () => {
    await (await serve({})).close()
    await settle()
    const open = Array.from({ length: 64 }, () => connectSocket(path))
    await Promise.all(open.map((socket) => new Promise((resolve) => socket.once('connect', resolve))))
    const extra = connectSocket(path)
    await new Promise((resolve) => extra.once('close', resolve))
    for (const socket of open) socket.destroy()
  })

  test('lets other users take no more than their part, and the own user in all the same', async () => {
    let uid = 0
    let open = 0
    const onConnections = (count: number) => {
      open = count
    }
    await (await serve({}, { credentialsOf: () => ({ pid: 1, uid, gid: uid }), onConnections })).close()
    const sockets: Socket[] = []
    const dial = () => {
      const socket = connectSocket(path)
        .on('error', () => {})
        .resume()
      sockets.push(socket)
      return new Promise<void>((resolve) => socket.once('close', resolve))
    }
    for (uid = 1_001; uid <= 1_004; uid++) {
      for (let count = 0; count < 8; count++) void dial()
      await expect.poll(() => open).toBe(8 * (uid - 1_000))
      await dial()
    }
    await dial()
    uid = 0
    for (let count = 0; count < 32; count++) void dial()
    await expect.poll(() => open).toBe(64)
    for (const socket of sockets) socket.destroy()
  })

  test('replaces the socket of a dead process and removes its own at the end', async () => {
    await (await serve({})).close()
    const first = server
    server = await startRpcServer({ path, methods: { a: async () => ({}) }, guarded: [], clock, log: silentLog })
    const rpc = await connectRpc(path)
    expect(await rpc.call('a', {})).toEqual({})
    await rpc.close()
    await server.close()
    expect(existsSync(path)).toBe(false)
    await first?.close()
  })
})

describe('connectRpc', () => {
  test('is UNREACHABLE when nobody listens', async () => {
    await expect(connectRpc(path)).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })
})

const fakeApi: DaemonApi = {
  connect: async () => ({ apiVersion: 'nsm/connect/v1', connections: [], alreadyUp: true, steps: [], totalMs: 0 }),
  disconnect: async () => ({ apiVersion: 'nsm/disconnect/v1', disconnected: ['blue'] }),
  status: async () => ({
    apiVersion: 'nsm/status/v1',
    running: true,
    identity: { spiffeId: 'spiffe://a/b', notAfterMs: 1 },
    connections: [],
    warnings: [],
  }),
  list: async () => ({ apiVersion: 'nsm/list/v1', services: [] }),
  version: async () => ({ version: '1', pid: 1 }),
  dnsStatus: async () => ({ apiVersion: 'nsm/dns-status/v1' }),
  dnsTrace: async ({ name, type }) => ({
    apiVersion: 'nsm/dns-trace/v1',
    name,
    type,
    answeredBy: 'here',
    inCache: false,
    hops: [],
    answer: { rcode: 'REFUSED', flags: [], answers: [], authority: [] },
    tookMs: 0,
  }),
  dnsFlush: async () => ({ apiVersion: 'nsm/dns-flush/v1', forgotten: 3 }),
  ...fakeTunnelApi(async (_name, value) => value),
  ...fakeLoginApi(async (_name, value) => value),
}

function rawAnswer(text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connectSocket(path, () => socket.write(text))
    let said = ''
    socket.on('data', (chunk) => {
      said += String(chunk)
    })
    socket.on('error', reject)
    socket.on('close', () => resolve(said))
  })
}
