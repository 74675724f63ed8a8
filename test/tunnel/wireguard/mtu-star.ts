import { carry, collect, createNode, join } from './wire.ts'

/** A hub at 10.7.0.1 / fd07::1 and two members from .2 on, sessions up; the hub knows their MTUs, as far as they have any. */
export function createMtuStar(mtus: readonly [number | undefined, number | undefined]) {
  const hub = createNode('hub', '192.0.2.100')
  hub.engine.setGateways(['10.7.0.1', 'fd07::1'], [])
  const [a, b] = [0, 1].map((i) => {
    const node = createNode('member', `192.0.2.${i + 2}`)
    node.engine.setMerging({ tcp: false, udp: false })
    const mtuBytes = mtus[i]
    const own = { publicKey: node.publicKey, allowedPrefixes: [`10.7.0.${i + 2}`, `fd07::${i + 2}`] }
    join(hub, { ...own, ...(mtuBytes === undefined ? {} : { mtuBytes }) })
    join(node, { publicKey: hub.publicKey, endpoint: hub.at, allowedPrefixes: ['10.7.0.0/16', 'fd07::/64'] })
    return node
  })
  if (!a || !b) throw new Error('two members')
  const all = [hub, a, b]
  for (const node of [a, b]) {
    node.engine.handshake(0, 1)
    carry(all, node, collect(node, 1), 1)
  }
  return { hub, a, b, all }
}
