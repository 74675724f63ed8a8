import { socketNews, type WireGuardEngine } from '../../../src/tunnel/wireguard/engine.ts'
import { plainRead } from './packets.ts'
import { createNode, fill, inner, join, type Node, type Output, outputs } from './wire.ts'

/** A node whose sockets are watched. */
export interface StackNode {
  readonly node: Node
  readonly engine: WireGuardEngine
  readonly stack: WireGuardEngine['stack']
  /** News of each socket, in order. */
  readonly heard: Map<number, number[]>
}

/** What happens to a run of datagrams on its way. */
export type Fate = (run: Output) => 'arrives' | 'lost' | 'late'

/** Two or more nodes, the way between them, and their time. */
export class StackNet {
  readonly nodes: readonly StackNode[]
  nowMs = 1
  fate: Fate = () => 'arrives'
  #waiting: { readonly from: Node; readonly run: Output }[] = []

  constructor(nodes: readonly Node[]) {
    this.nodes = nodes.map((node) => ({ node, engine: node.engine, stack: node.engine.stack, heard: new Map() }))
  }

  /** Takes what a call into a node's engine produced. */
  collect(from: StackNode): void {
    const { engine, node } = from
    for (;;) {
      for (const run of outputs(engine, engine.sends, engine.result.sends)) this.#waiting.push({ from: node, run })
      node.writes.push(...outputs(engine, engine.deviceWrites, engine.result.deviceWrites))
      for (const { socket, news } of engine.stack.socketEvents(engine.result.events)) {
        from.heard.set(socket, [...(from.heard.get(socket) ?? []), news])
      }
      if (!engine.result.more) return
      engine.drain(this.nowMs)
    }
  }

  /** Carries until nobody says anything more at this moment. */
  settle(): void {
    for (let rounds = 0; this.#waiting.length > 0 && rounds < 10_000; rounds++) {
      const [next] = this.#waiting.splice(0, 1)
      if (!next) return
      const fate = this.fate(next.run)
      if (fate === 'late' && this.#waiting.length > 0) this.#waiting.push(next)
      else if (fate !== 'lost') this.#deliver(next.from, next.run)
    }
  }

  /** Lets time pass: everybody's timers run when they are due. */
  pass(ms: number): void {
    const until = this.nowMs + ms
    while (this.nowMs < until) {
      const due = Math.min(...this.nodes.map(({ engine }) => engine.result.waitMs), 250, until - this.nowMs)
      this.nowMs += Math.max(due, 1)
      for (const one of this.nodes) {
        one.engine.tick(this.nowMs)
        this.collect(one)
      }
      this.settle()
    }
  }

  /** All a connection was sent so far; takes it. */
  read(of: StackNode, socket: number): Buffer {
    const parts: Buffer[] = []
    for (;;) {
      const part = of.stack.receiveTcp(socket, 65_536, this.nowMs)
      this.collect(of)
      if (part.length === 0) return Buffer.concat(parts)
      parts.push(Buffer.from(part))
    }
  }

  /** Opens a connection and gives both ends' sockets. */
  connect(from: StackNode, to: StackNode, address: string, port: number): [number, number] {
    const socket = from.stack.connectTcp({ address, port }, this.nowMs)
    if (socket === undefined) throw new Error('no socket')
    const known = new Set(to.heard.keys())
    this.collect(from)
    this.settle()
    for (let i = 0; i < 100 && !hasHeard(from, socket, socketNews.connected); i++) this.pass(250)
    const accepted = [...to.heard.keys()].find((one) => !known.has(one))
    if (accepted === undefined) throw new Error('not accepted')
    return [socket, accepted]
  }

  #deliver(from: Node, run: Output): void {
    const to = this.nodes.find(({ node: { at } }) => at.address === run.to?.address && at.port === run.to.port)
    if (!to) return
    to.engine.fromNetwork(fill(to.engine, to.engine.received, [{ ...run, from: from.at }]), this.nowMs)
    this.collect(to)
  }
}

/** True when a socket had this news. */
export function hasHeard({ heard }: StackNode, socket: number, news: number): boolean {
  return (heard.get(socket) ?? []).some((bits) => (bits & news) !== 0)
}

/** Two tunnels without a device, their session up: 10.0.0.1 / fd00::1 and 10.0.0.2 / fd00::2. */
export function stackPair(mtuBytes = 1_420) {
  const nodes = [1, 2].map((n) => createNode('netstack', `192.0.2.${n}`, { mtuBytes }))
  const [a, b] = nodes
  if (!a || !b) throw new Error('two nodes')
  a.engine.setGateways(['10.0.0.1', 'fd00::1'], [])
  b.engine.setGateways(['10.0.0.2', 'fd00::2'], [])
  join(a, { publicKey: b.publicKey, endpoint: b.at, allowedPrefixes: ['10.0.0.2', 'fd00::2'] })
  join(b, { publicKey: a.publicKey, allowedPrefixes: ['10.0.0.1', 'fd00::1'] })
  return openNet([a, b])
}

/** A hub with TCP at port 53 of its gateway 10.7.0.1 / fd07::1, and members without a device from .2 on. */
export function stackStar(count: number) {
  const hub = createNode('hub', '192.0.2.100')
  hub.engine.setGateways(['10.7.0.1', 'fd07::1'], [])
  hub.engine.stack.listenTcp(53, true)
  const members = Array.from({ length: count }, (_, i) => {
    const node = createNode('netstack', `192.0.2.${i + 2}`, { mtuBytes: 1_420 })
    const own = [`10.7.0.${i + 2}`, `fd07::${i + 2}`]
    node.engine.setGateways(own, [])
    join(hub, { publicKey: node.publicKey, allowedPrefixes: own })
    join(node, { publicKey: hub.publicKey, endpoint: hub.at, allowedPrefixes: ['10.7.0.0/16', 'fd07::/64'] })
    return node
  })
  const net = openNet([hub, ...members], true)
  const [first] = net.nodes
  if (!first) throw new Error('a hub')
  return { net: net.net, hub: first, members: net.nodes.slice(1) }
}

function openNet(nodes: readonly Node[], isStar = false) {
  const net = new StackNet(nodes)
  for (const one of net.nodes.slice(isStar ? 1 : 0, isStar ? undefined : 1)) {
    one.engine.handshake(0, 1)
    net.collect(one)
    net.settle()
  }
  const [a, b] = net.nodes
  if (!a || !b) throw new Error('two nodes')
  return { net, nodes: net.nodes, a, b }
}

/**
 * A hub whose gateway 10.7.0.1 / fd07::1 listens at port 53, or a tunnel without a device that does, and a member 10.7.0.2 /
 * fd07::2 that can send it anything: gives what comes back.
 */
export function openVictim(kind: 'hub' | 'netstack') {
  const target = createNode(kind, '192.0.2.100', { mtuBytes: 1_420 })
  target.engine.setGateways(['10.7.0.1', 'fd07::1'], [])
  target.engine.stack.listenTcp(53, true)
  const attacker = createNode('member', '192.0.2.2')
  attacker.engine.setMerging({ tcp: false, udp: false })
  join(target, { publicKey: attacker.publicKey, allowedPrefixes: ['10.7.0.0/24', 'fd07::/64'] })
  join(attacker, { publicKey: target.publicKey, endpoint: target.at, allowedPrefixes: ['10.7.0.0/16', 'fd07::/64'] })
  const { net, a, b } = openNet([target, attacker], true)
  const received = () => attacker.writes.splice(0).map(inner)
  const send = (packets: readonly Uint8Array[], nowMs = net.nowMs) => {
    net.nowMs = nowMs
    for (let i = 0; i < packets.length; i += 32) {
      const reads = packets.slice(i, i + 32).map((packet) => ({ bytes: plainRead(packet) }))
      attacker.engine.fromDevice(fill(attacker.engine, attacker.engine.deviceReads, reads), nowMs)
      net.collect(b)
      net.settle()
    }
    return received()
  }
  return { net, target, victim: a, both: [target, attacker], send, received }
}
