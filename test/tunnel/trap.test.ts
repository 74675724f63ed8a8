import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { type Hub, openHub } from '../../src/tunnel/hub.ts'
import { openRootlessTunnel } from '../../src/tunnel/rootless.ts'
import type * as engine from '../../src/tunnel/wireguard/engine.ts'
import { engineThatTrapsIn } from './broken-module.ts'

/* The module of the next hub; the hub's thread gets it as it would get the real one. */
const broken = vi.hoisted(() => ({ module: undefined as WebAssembly.Module | undefined }))
vi.mock('../../src/tunnel/wireguard/engine.ts', async (load) => {
  const real = await load<typeof engine>()
  return { ...real, loadEngineModule: async () => broken.module ?? real.loadEngineModule() }
})

let hub: Hub | undefined
afterEach(async () => {
  await hub?.close()
  hub = undefined
  vi.resetModules()
})

/** A hub on a module that traps there, started afresh: the module is compiled once per process. */
async function openBroken(name: string): Promise<Hub> {
  broken.module = engineThatTrapsIn(name)
  vi.resetModules()
  const fresh: { readonly openHub: typeof openHub } = await import('../../src/tunnel/hub.ts')
  hub = await fresh.openHub({
    privateKey: new Uint8Array(32).fill(7),
    listenAddress: '127.0.0.1',
    listenPort: 0,
    gateways: [],
    localUdpPorts: [],
    onLocalPacket: () => {},
  })
  return hub
}

describe.skipIf(process.platform !== 'linux')('a trap in the module (needs Linux)', () => {
  test('of the timers, which run at once, keeps the hub from opening', async () => {
    await expect(openBroken('tick')).rejects.toMatchObject({
      code: 'BUG',
      message: expect.stringMatching(/^the WireGuard engine failed: .*unreachable/),
    })
  })

  test('by a datagram ends the hub, whose port answers nothing from then on', async () => {
    const opened = await openBroken('from_network')
    const socket = createSocket('udp4')
    const heard: unknown[] = []
    socket.on('message', (message) => heard.push(message))
    socket.on('error', () => {})
    // Connected, it hears the hub alone.
    socket.connect(opened.listenPort, '127.0.0.1')
    await once(socket, 'connect')
    socket.send(new Uint8Array(148))
    expect(await opened.failed).toMatchObject({
      code: 'BUG',
      message: expect.stringContaining('the WireGuard engine failed'),
    })
    socket.send(new Uint8Array(148))
    await opened.close()
    expect(heard).toEqual([])
    socket.close()
  })

  test('of a request is the answer to that request, and ends the hub: what the module holds is not to be trusted', async () => {
    const opened = await openBroken('peer_of')
    const peer = { publicKey: new Uint8Array(32).fill(9), keepaliveSeconds: 0, allowedPrefixes: [] }
    await expect(opened.setPeer(peer)).rejects.toMatchObject({ code: 'BUG' })
    expect(await opened.failed).toMatchObject({ code: 'BUG' })
    await expect(opened.stats()).rejects.toMatchObject({ code: 'BUG' })
  })

  test('by a socket of a tunnel without a device ends that tunnel and its streams, and no other', async () => {
    broken.module = undefined
    const settings = { listenPort: 0, mtuBytes: 1_420, addresses: ['10.0.0.1'], peers: [] }
    const whole = await openRootlessTunnel({ ...settings, privateKey: new Uint8Array(32).fill(8) })
    broken.module = engineThatTrapsIn('stack_connect')
    vi.resetModules()
    const fresh: { readonly openRootlessTunnel: typeof openRootlessTunnel } = await import(
      '../../src/tunnel/rootless.ts'
    )
    const opened = await fresh.openRootlessTunnel({ ...settings, privateKey: new Uint8Array(32).fill(7) })
    const udp = await opened.net.openUdp(53, () => {})
    const failure = { code: 'BUG', message: expect.stringContaining('the WireGuard engine failed') }
    await expect(opened.net.connect({ address: '10.0.0.9', port: 80 })).rejects.toMatchObject(failure)
    expect(await opened.failed).toMatchObject(failure)
    await expect(opened.net.ping('10.0.0.9', new AbortController().signal)).rejects.toMatchObject(failure)
    udp.send(new Uint8Array(1), { address: '10.0.0.9', port: 53 })
    udp.close()
    await opened.close()
    expect((await whole.net.openUdp(53, () => {})).port).toBe(53)
    await whole.close()
  })

  test('leaves another hub of the process as it is', async () => {
    broken.module = undefined
    const whole = await openHub({
      privateKey: new Uint8Array(32).fill(8),
      listenAddress: '127.0.0.1',
      listenPort: 0,
      gateways: [],
      localUdpPorts: [],
      onLocalPacket: () => {},
    })
    await expect(openBroken('tick')).rejects.toMatchObject({ code: 'BUG' })
    expect(await whole.stats()).toMatchObject({ peers: [], counters: { malformed: 0 } })
    await whole.close()
  })
})
