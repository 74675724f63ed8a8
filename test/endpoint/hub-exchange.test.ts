import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { join as joinPath } from 'node:path'
import { promisify } from 'node:util'
import dnsPacket from 'dns-packet'
import { afterEach, describe, expect, test } from 'vitest'
import { type Audit, type AuditEvent, noAudit } from '../../src/base/audit.ts'
import { parseAddress } from '../../src/base/ip.ts'
import type { Connection } from '../../src/nsm/generated/connection_pb.js'
import { type Hub, type HubConfig, openHub } from '../../src/tunnel/hub.ts'
import { buildEchoRequest, buildUdp, parseUdp } from '../../src/tunnel/ip-packet.ts'
import { freePort } from '../support/free-port.ts'
import { scratchDir } from '../support/scratch.ts'
import {
  join as addPeer,
  collect,
  createNode,
  datagramsOf,
  deviceReads,
  inner,
  type Node,
  type Output,
  receiveBytes,
} from '../tunnel/wireguard/wire.ts'
import { addressesOf, idOf, join, keyOf, kill, openRig, type Rig } from './vl3-rig.ts'

/* The real hub on a UDP socket of the loopback, its members real WireGuard engines on sockets of their own:
 *   member engine <--UDP--> hub worker <--packets--> vl3's name server.   No root, no TUN. */

const closers: (() => Promise<unknown> | unknown)[] = []

afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) await close()
})

const loopback = '127.0.0.1'

interface RealWish {
  readonly listenAddress?: string
  readonly port?: number
  readonly clock?: Rig['clock']
  readonly audit?: Audit
  /** Gets the hub. */
  readonly hubs?: Hub[]
}

const openReal = async (
  path: string,
  { listenAddress = loopback, port = 0, clock, audit = noAudit, hubs = [] }: RealWish = {},
): Promise<Rig> => {
  const open = async (config: HubConfig) => {
    const hub = await openHub(config)
    hubs.push(hub)
    return hub
  }
  const wish = { openHub: open, listenAddress, listenPort: port, reachableAt: () => loopback, audit }
  const rig = await openRig(path, wish, clock)
  closers.push(() => rig.vl3.stop())
  return rig
}

/** A member: a WireGuard engine behind a UDP socket. */
interface RealMember {
  readonly node: Node
  readonly address: string
  /** Sends a raw IP packet into the tunnel. */
  send(packet: Uint8Array): void
  /** Resolves with the first packet out of the tunnel that `wanted` accepts. */
  next(wanted: (packet: Buffer) => boolean): Promise<Buffer>
  handshakes(): number
}

async function joinReal(rig: Rig, id: string): Promise<RealMember> {
  const socket = createSocket('udp4')
  socket.bind(0, loopback)
  await once(socket, 'listening')
  closers.push(() => socket.close())
  const node = createNode('member', loopback)
  // Not the address of its TCP connection: the hub must learn where the member is from its handshake.
  const key = Buffer.from(node.publicKey).toString('base64')
  const answer = await join(rig, { id, key, sourceIp: '192.0.2.99' })
  return run(socket, node, answer)
}

function run(socket: Socket, node: Node, answer: Connection): RealMember {
  const { parameters = {} } = answer.mechanism ?? {}
  const hubAt = { address: parameters['dst_ip'] ?? '', port: Number(parameters['dst_port']) }
  addPeer(node, {
    publicKey: Buffer.from(parameters['dst_public_key'] ?? '', 'base64'),
    endpoint: hubAt,
    allowedPrefixes: ['10.64.0.0/16'],
  })
  const waiting: { wanted: (packet: Buffer) => boolean; resolve: (packet: Buffer) => void }[] = []
  let handshakes = 0
  const emit = (outputs: readonly Output[]) => {
    for (const datagram of outputs.flatMap(datagramsOf)) socket.send(datagram, hubAt.port, hubAt.address)
    for (const packet of node.writes.splice(0).map(inner)) {
      const at = waiting.findIndex(({ wanted }) => wanted(packet))
      if (at >= 0) waiting.splice(at, 1)[0]?.resolve(packet)
    }
  }
  socket.on('message', (datagram, from) => {
    emit(receiveBytes(node, datagram, { address: from.address, port: from.port }, performance.now()))
    handshakes += node.engine.result.handshakes
  })
  const timer = setInterval(() => {
    node.engine.tick(performance.now())
    emit(collect(node, performance.now()))
  }, 100)
  closers.push(() => clearInterval(timer))
  return {
    node,
    address: addressesOf(answer)?.[0]?.split('/')[0] ?? '',
    send: (packet) => emit(deviceReads(node, [Buffer.concat([Buffer.alloc(10), packet])], performance.now())),
    next: (wanted) => new Promise((resolve) => waiting.push({ wanted, resolve })),
    handshakes: () => handshakes,
  }
}

/** Between two looks at the hub. */
const houseMs = 10_000
const keyText = ({ node }: RealMember) => Buffer.from(node.publicKey).toString('base64')
const isEchoRequest = (packet: Buffer) => packet[9] === 1 && packet[20] === 8

async function lookUp(member: RealMember, name: string): Promise<dnsPacket.DecodedPacket> {
  const answered = member.next((packet) => parseUdp(packet)?.sourcePort === 53)
  const payload = dnsPacket.encode({ type: 'query', id: 1, questions: [{ name, type: 'A' }] })
  const [source, destination] = [parseAddress(member.address), parseAddress('10.64.0.0')]
  member.send(buildUdp({ source, sourcePort: 5_353, destination, destinationPort: 53, payload }))
  return dnsPacket.decode(Buffer.from(parseUdp(await answered)?.payload ?? []))
}

describe('vL3 over the real hub', () => {
  test('members shake hands, look each other up and reach each other from their own addresses', async () => {
    const rig = await openReal(joinPath(await scratchDir(), 'vl3.db'))
    const alice = await joinReal(rig, 'alice')
    const bob = await joinReal(rig, 'bob')
    const reply = await lookUp(alice, 'bob.blue.nsm.internal')
    expect(reply).toMatchObject({ rcode: 'NOERROR', answers: [{ data: bob.address }] })
    await lookUp(bob, 'alice.blue.nsm.internal')
    const arrived = bob.next(isEchoRequest)
    alice.send(buildEchoRequest({ source: parseAddress(alice.address), destination: parseAddress(bob.address) }))
    expect((await arrived).subarray(12, 20)).toEqual(Buffer.from([10, 64, 0, 1, 10, 64, 0, 2]))
    const [member] = rig.vl3.members()
    expect(member?.addresses).toEqual([`${alice.address}/32`])
    expect(await lookUp(alice, 'carol.blue.nsm.internal')).toMatchObject({ rcode: 'NXDOMAIN' })
  })

  test.each([[loopback], ['::']])(
    'after a restart the hub on %s finds its members by itself: they send nothing first',
    async (listenAddress) => {
      const path = joinPath(await scratchDir(), 'vl3.db')
      const port = await freePort()
      const before = await openReal(path, { listenAddress, port })
      const alice = await joinReal(before, 'alice')
      await lookUp(alice, 'alice.blue.nsm.internal')
      await before.vl3.stop()
      expect(before.store.leases('blue')).toMatchObject([{ underlay: { address: loopback } }])
      kill(before)
      const handshakes = alice.handshakes()
      const woken = alice.next(isEchoRequest)
      await openReal(path, { listenAddress, port, clock: before.clock })
      expect((await woken).subarray(12, 20)).toEqual(Buffer.from([10, 64, 0, 0, 10, 64, 0, 1]))
      expect(alice.handshakes()).toBeGreaterThan(handshakes)
      expect(await lookUp(alice, 'alice.blue.nsm.internal')).toMatchObject({ rcode: 'NOERROR' })
    },
  )

  test('who sends from an address of somebody else is recorded by identity and number', async () => {
    const events: AuditEvent[] = []
    const audit = { record: (event: AuditEvent) => void events.push(event) }
    const rig = await openReal(joinPath(await scratchDir(), 'vl3.db'), { audit })
    const alice = await joinReal(rig, 'alice')
    const bob = await joinReal(rig, 'bob')
    await Promise.all([alice, bob].map((member) => lookUp(member, 'bob.blue.nsm.internal')))
    for (const source of [bob.address, bob.address, '10.64.9.9', '192.0.2.1']) {
      bob.send(buildEchoRequest({ source: parseAddress(source), destination: parseAddress(alice.address) }))
      alice.send(buildEchoRequest({ source: parseAddress(source), destination: parseAddress(bob.address) }))
    }
    await Promise.all([alice, bob].map((member) => lookUp(member, 'bob.blue.nsm.internal')))
    await rig.clock.advance(houseMs)
    await expect.poll(() => events.filter(({ event }) => event === 'wg.spoof')).toHaveLength(2)
    expect(events.slice(2)).toEqual([
      { event: 'wg.spoof', id: idOf('alice'), service: 'blue', publicKey: keyText(alice), count: 4 },
      { event: 'wg.spoof', id: idOf('bob'), service: 'blue', publicKey: keyText(bob), count: 2 },
    ])
    await rig.clock.advance(houseMs)
    expect(events).toHaveLength(4)
  })

  test('a flood of initiations is recorded when it begins and when it is over', async () => {
    const events: AuditEvent[] = []
    const audit = { record: (event: AuditEvent) => void events.push(event) }
    const hubs: Hub[] = []
    const rig = await openReal(joinPath(await scratchDir(), 'vl3.db'), { audit, hubs })
    const alice = await joinReal(rig, 'alice')
    alice.node.engine.handshake(0, performance.now())
    const [initiation] = collect(alice.node, performance.now()).flatMap(datagramsOf)
    const flood = createSocket('udp4')
    closers.push(() => flood.close())
    const recorded = () => events.filter(({ event }) => event.startsWith('wg.')).map(({ event }) => event)
    /** The hub answers in order: when it has answered us, it has answered the look. */
    const look = async () => {
      await rig.clock.advance(houseMs)
      await hubs[0]?.stats()
      return recorded()
    }
    const send = promisify<string | Buffer, number, string>(flood.send.bind(flood))
    const floodAndLook = async () => {
      await Promise.all(Array.from({ length: 200 }, () => send(initiation ?? '', rig.vl3.wireguardPort, loopback)))
      return look()
    }
    await expect.poll(floodAndLook).toEqual(['wg.underload.on'])
    await expect.poll(look).toEqual(['wg.underload.on', 'wg.underload.off'])
  })

  test('a key of no use is refused by the engine and leaves nothing behind', async () => {
    const rig = await openReal(joinPath(await scratchDir(), 'vl3.db'))
    const key = Buffer.alloc(32).toString('base64')
    await expect(join(rig, { key, sourceIp: '192.0.2.99' })).rejects.toMatchObject({
      code: expect.stringMatching(/USAGE|REFUSED/),
    })
    expect(rig.vl3.members()).toEqual([])
    await join(rig, { key: keyOf('alice'), sourceIp: '192.0.2.99' })
  })
})
