import { afterEach, describe, expect, test } from 'vitest'
import { openHub } from '../../src/tunnel/hub.ts'
import { loadPlatform } from '../../src/tunnel/tun/open.ts'
import { prepareTunnel } from '../../src/tunnel/tunnels.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/engine.ts'
import { freePort } from '../support/free-port.ts'
import { addresses, ask, createMachine, type Machine } from './machines.ts'
import { echoRequest, udpPacket } from './wireguard/packets.ts'

/* A real hub, with its thread and its socket on the loopback; the member is in this thread. No root. */

const onLinux = process.platform === 'linux'
const toClose: { close(): unknown }[] = []
afterEach(async () => {
  for (const thing of toClose.splice(0).reverse()) await thing.close()
})

async function start(onLocalPacket: (packet: Uint8Array) => void = () => {}, listenPort = 0) {
  const privateKey = generatePrivateKey()
  const hub = await openHub({
    privateKey,
    listenAddress: '::',
    listenPort,
    gateways: [addresses.gateway4, addresses.gateway6],
    localUdpPorts: [53],
    onLocalPacket,
  })
  toClose.push(hub)
  return { hub, publicKey: publicKeyOf(privateKey) }
}

async function startMember(hub: { readonly publicKey: Uint8Array; readonly port: number }): Promise<Machine> {
  const { LinuxUdpSocket, openUdp } = await loadPlatform()
  const udp = openUdp({ address: '127.0.0.1', port: 0 })
  toClose.push(udp)
  const machine = createMachine({ kind: 'member', openSocket: (engine) => new LinuxUdpSocket(udp, engine) })
  const endpoint = { address: '127.0.0.1', port: hub.port }
  const allowedPrefixes = ['10.64.0.0/16', 'fd64::/64']
  ask(machine, 1, {
    kind: 'setPeer',
    peer: { publicKey: hub.publicKey, endpoint, keepaliveSeconds: 0, allowedPrefixes },
  })
  return machine
}

/** Runs the member until the condition holds. */
async function until(member: Machine, holds: () => boolean): Promise<void> {
  await expect
    .poll(
      () => {
        member.pump.turn()
        return holds()
      },
      { interval: 5 },
    )
    .toBe(true)
}

describe.skipIf(!onLinux)(`openHub${onLinux ? '' : ': skipped, needs Linux'}`, () => {
  test('a member shakes hands, pings the gateway and asks a local service', async () => {
    const locals: Uint8Array[] = []
    const { hub, publicKey } = await start((packet) => locals.push(packet))
    const member = await startMember({ publicKey, port: hub.listenPort })
    const peer = { publicKey: member.publicKey, keepaliveSeconds: 0, allowedPrefixes: [`${addresses.alice4}/32`] }
    await hub.setPeer(peer)
    ask(member, 2, { kind: 'handshake', publicKey })
    await until(member, () => member.said.some((message) => message.kind === 'answer' && message.id === 2))

    const [from, to] = [addresses.alice4, addresses.gateway4]
    member.device.inject(echoRequest({ from, to }))
    const written: Uint8Array[] = []
    await until(member, () => written.push(...member.device.takeWritten()) > 0)

    const query = udpPacket({ from, to, toPort: 53, payload: Buffer.from('who is bob') })
    member.device.inject(query)
    await until(member, () => locals.length === 1)
    expect(Buffer.from(locals[0] ?? [])).toEqual(query)

    const answer = udpPacket({ from: to, to: from, fromPort: 53, toPort: 40_000, payload: Buffer.from('there') })
    hub.sendLocal(answer)
    const answers: Uint8Array[] = []
    await until(member, () => answers.push(...member.device.takeWritten()) > 0)
    expect(Buffer.from(answers[0] ?? [])).toEqual(answer)

    const stats = await hub.stats()
    expect([0, 1]).toContain(stats.counters['wideCipher'])
    expect(stats.counters).toMatchObject({ handshakesCompleted: 1, echoAnswered: 1 })
    expect(stats.peers[0]?.publicKey).toBe(Buffer.from(member.publicKey).toString('base64'))
    expect(stats.peers[0]?.endpoint?.address).toBe('127.0.0.1')
    expect(stats.peers[0]?.lastHandshakeAgeMs).toBeGreaterThanOrEqual(0)
  })

  test('a thread that was prepared serves the next hub, and one that is never used holds nothing up', async () => {
    await prepareTunnel()
    const { hub } = await start()
    expect((await hub.stats()).peers).toEqual([])
    await prepareTunnel()
  })

  test('a peer that was removed gets no answer any more', async () => {
    const { hub } = await start()
    const publicKey = publicKeyOf(generatePrivateKey())
    await hub.setPeer({ publicKey, keepaliveSeconds: 0, allowedPrefixes: ['10.64.0.9/32'] })
    expect((await hub.stats()).peers).toHaveLength(1)
    await hub.removePeer(publicKey)
    expect((await hub.stats()).peers).toEqual([])
  })

  test('a taken UDP port is CONFLICT, and the first hub works on', async () => {
    const { hub } = await start()
    const second = openHub({
      privateKey: generatePrivateKey(),
      listenAddress: '::',
      listenPort: hub.listenPort,
      gateways: [],
      localUdpPorts: [],
      onLocalPacket: () => {},
    })
    await expect(second).rejects.toMatchObject({
      code: 'CONFLICT',
      message: expect.stringContaining(String(hub.listenPort)),
    })
    await hub.setGateways(['10.9.0.1'])
  })

  test('close is idempotent, frees the port, and later requests are refused', async () => {
    const { hub } = await start(undefined, await freePort())
    await hub.close()
    await hub.close()
    await expect(hub.stats()).rejects.toMatchObject({ code: 'NOT_READY' })
    const { openUdp } = await loadPlatform()
    openUdp({ address: '::', port: hub.listenPort }).close()
  })

  test('a bad key is USAGE and leaves the port free', async () => {
    const settings = { listenAddress: '::', gateways: [], localUdpPorts: [], onLocalPacket: () => {} }
    const { openUdp } = await loadPlatform()
    const port = await freePort()
    const bad = openHub({ ...settings, privateKey: new Uint8Array(3), listenPort: port })
    await expect(bad).rejects.toMatchObject({ code: 'USAGE' })
    openUdp({ address: '::', port }).close()
  })

  test('an aborted start leaves nothing behind', async () => {
    const controller = new AbortController()
    controller.abort()
    const settings = { listenAddress: '::', gateways: [], localUdpPorts: [], onLocalPacket: () => {} }
    const aborted = openHub({ ...settings, privateKey: generatePrivateKey(), listenPort: 0 }, controller.signal)
    await expect(aborted).rejects.toMatchObject({ name: 'AbortError' })
  })
})
