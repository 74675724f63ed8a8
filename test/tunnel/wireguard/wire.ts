import { expect } from 'vitest'
import {
  createEngine,
  type Descriptors,
  descriptorWords,
  type EngineKind,
  type EngineSettings,
  generatePrivateKey,
  type InputRing,
  loadEngineModule,
  type PeerSettings,
  publicKeyOf,
  type WireGuardEngine,
} from '../../../src/tunnel/wireguard/engine.ts'
import { readSockaddr, type SocketAddress, writeSockaddr } from '../../../src/tunnel/wireguard/sockaddr.ts'

export const engineModule = await loadEngineModule()

/** One descriptor's data, copied. */
export interface Output {
  readonly bytes: Buffer
  readonly segment: number
  readonly peer: number
  readonly to: SocketAddress | undefined
}

/** An engine at an address of the test's own little network. */
export interface Node {
  readonly engine: WireGuardEngine
  readonly publicKey: Uint8Array
  readonly at: SocketAddress
  readonly writes: Output[]
  readonly locals: Output[]
  /** Runs of datagrams it sent. */
  readonly sent: Output[]
}

/** A node with a fresh key and room for 64 peers. */
export function createNode(
  kind: EngineKind,
  address: string,
  limits: Pick<EngineSettings, 'peersMax' | 'mtuBytes'> = {},
): Node {
  const privateKey = generatePrivateKey()
  const engine = createEngine(engineModule, { kind, privateKey, peersMax: 64, ...limits })
  const node = { engine, publicKey: publicKeyOf(privateKey), at: { address, port: 51_820 } }
  return { ...node, writes: [], locals: [], sent: [] }
}

/** Adds a peer and gives its handle. */
export function join(node: Node, settings: Partial<PeerSettings> & { readonly publicKey: Uint8Array }): number {
  const peer = node.engine.addPeer({ keepaliveSeconds: 0, allowedPrefixes: [], ...settings })
  if (typeof peer !== 'number') throw new Error(`peer refused: ${peer}`)
  return peer
}

/** Copies what `count` descriptors point to. */
export function outputs(engine: WireGuardEngine, array: Descriptors, count: number): Output[] {
  return Array.from({ length: count }, (_, index) => {
    const at = array.offset / 4 + index * descriptorWords
    const [offset = 0, bytes = 0, segment = 0, peer = 0] = engine.u32.subarray(at, at + 4)
    const to = readSockaddr(engine.u8.subarray(array.offset + index * 64 + 16, array.offset + index * 64 + 48))
    return { bytes: Buffer.from(engine.u8.slice(offset, offset + bytes)), segment, peer, to }
  })
}

/** Splits a run into its datagrams. */
export function datagramsOf(run: Output): Buffer[] {
  const stride = run.segment === 0 ? run.bytes.length : run.segment
  const count = Math.ceil(run.bytes.length / stride)
  return Array.from({ length: count }, (_, i) => run.bytes.subarray(i * stride, (i + 1) * stride))
}

/** Puts inputs into a ring as a socket or a device would. */
export function fill(
  engine: WireGuardEngine,
  ring: InputRing,
  inputs: readonly { readonly bytes: Uint8Array; readonly segment?: number; readonly from?: SocketAddress }[],
): number {
  expect(inputs.length).toBeLessThanOrEqual(ring.capacity)
  for (const [index, input] of inputs.entries()) {
    const at = ring.offset / 4 + index * descriptorWords
    engine.u8.set(input.bytes, engine.u32[at])
    engine.u32[at + 1] = input.bytes.length
    engine.u32[at + 2] = input.segment ?? 0
    if (input.from) writeSockaddr(engine.u8.subarray(at * 4 + 16, at * 4 + 48), input.from)
  }
  return inputs.length
}

/** Takes the outputs of the last call, and of the drains it asks for. */
export function collect(node: Node, nowMs: number): Output[] {
  const { engine } = node
  const sends: Output[] = []
  for (;;) {
    sends.push(...outputs(engine, engine.sends, engine.result.sends))
    node.writes.push(...outputs(engine, engine.deviceWrites, engine.result.deviceWrites))
    node.locals.push(...outputs(engine, engine.locals, engine.result.locals))
    if (!engine.result.more) break
    engine.drain(nowMs)
  }
  node.sent.push(...sends)
  return sends
}

/** Hands runs of datagrams to a node, as coming from `from`. */
export function receive(node: Node, runs: readonly Output[], from: SocketAddress, nowMs: number): Output[] {
  const sends: Output[] = []
  for (let i = 0; i < runs.length; i += node.engine.received.capacity) {
    const some = runs.slice(i, i + node.engine.received.capacity).map((run) => ({ ...run, from }))
    node.engine.fromNetwork(fill(node.engine, node.engine.received, some), nowMs)
    sends.push(...collect(node, nowMs))
  }
  return sends
}

/** Delivers one datagram made by a test. */
export function receiveBytes(node: Node, bytes: Uint8Array, from: SocketAddress, nowMs: number): Output[] {
  return receive(node, [{ bytes: Buffer.from(bytes), segment: 0, peer: 0, to: undefined }], from, nowMs)
}

/** Reads of the TUN device. */
export function deviceReads(node: Node, reads: readonly Uint8Array[], nowMs: number): Output[] {
  const inputs = reads.map((bytes) => ({ bytes }))
  node.engine.fromDevice(fill(node.engine, node.engine.deviceReads, inputs), nowMs)
  return collect(node, nowMs)
}

/** Carries what nodes send until nobody says anything more; what goes to nobody is lost. */
export function carry(nodes: readonly Node[], from: Node, sends: readonly Output[], nowMs: number): void {
  let waiting = [{ from, sends }]
  for (let round = 0; waiting.length > 0; round++) {
    expect(round).toBeLessThan(20)
    waiting = waiting.flatMap((batch) =>
      nodes.flatMap((node) => {
        const mine = batch.sends.filter((run) => run.to?.address === node.at.address && run.to.port === node.at.port)
        return mine.length === 0 ? [] : [{ from: node, sends: receive(node, mine, batch.from.at, nowMs) }]
      }),
    )
  }
}

/** Runs everybody's timers once and carries what they say. */
export function tickAll(nodes: readonly Node[], nowMs: number): void {
  for (const node of nodes) {
    node.engine.tick(nowMs)
    carry(nodes, node, collect(node, nowMs), nowMs)
  }
}

/** How a pair of members differs from the usual. */
export interface PairOptions {
  readonly presharedKey?: Uint8Array
  readonly keepaliveSeconds?: number
  readonly mtuBytes?: number
  /** Merge packets for the device; off, so that tests see the packets that were sent. */
  readonly merging?: boolean
}

/** Two members that know each other: 10.0.0.1 / fd00::1 and 10.0.0.2 / fd00::2. */
export function createPair({ mtuBytes, ...options }: PairOptions = {}) {
  const a = createNode('member', '192.0.2.1', { mtuBytes })
  const b = createNode('member', '192.0.2.2', { mtuBytes })
  const toB = join(a, { ...options, publicKey: b.publicKey, endpoint: b.at, allowedPrefixes: ['10.0.0.2', 'fd00::2'] })
  const toA = join(b, { ...options, publicKey: a.publicKey, allowedPrefixes: ['10.0.0.1', 'fd00::1'] })
  for (const node of [a, b]) node.engine.setMerging({ tcp: options.merging ?? false, udp: options.merging ?? false })
  return { a, b, toB, toA, both: [a, b] as const }
}

/** A pair after its handshake. */
export function connectedPair(options: PairOptions = {}) {
  const pair = createPair(options)
  pair.a.engine.tick(1)
  pair.b.engine.tick(1)
  pair.a.engine.handshake(pair.toB, 1)
  carry(pair.both, pair.a, collect(pair.a, 1), 1)
  for (const node of pair.both) {
    node.sent.length = 0
    node.writes.length = 0
  }
  return pair
}

/** The packet behind the virtio_net_hdr. */
export function inner(write: Output | undefined): Buffer {
  if (!write) throw new Error('nothing was written')
  return write.bytes.subarray(10)
}
