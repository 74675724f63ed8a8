import type { WorkerMessage } from '../../src/tunnel/control.ts'
import { createPump, type Pump } from '../../src/tunnel/pump.ts'
import { Requests } from '../../src/tunnel/requests.ts'
import { StackSockets } from '../../src/tunnel/stack-sockets.ts'
import { MemoryTunDevice } from '../../src/tunnel/tun/memory.ts'
import type { UdpSocket } from '../../src/tunnel/udp.ts'
import type { MemoryNetwork } from '../../src/tunnel/udp-memory.ts'
import {
  createEngine,
  type EngineKind,
  generatePrivateKey,
  loadEngineModule,
  publicKeyOf,
  type WireGuardEngine,
} from '../../src/tunnel/wireguard/engine.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'

/** A machine of the tests: everything but the kernel is real. */
export interface Machine {
  readonly publicKey: Uint8Array
  readonly engine: WireGuardEngine
  readonly device: MemoryTunDevice
  readonly pump: Pump
  readonly requests: Requests
  readonly clock: FakeClock
  /** Packets to the hub's own services. */
  readonly locals: Uint8Array[]
  /** What the worker would tell the main thread. */
  readonly said: WorkerMessage[]
  /** Bursts from the network that had packets for the device. */
  heard(): number
}

/** What a machine is made from; a socket of the test's own takes the place of the network's. */
export interface MachinePlan {
  readonly kind: EngineKind
  readonly openSocket: (engine: WireGuardEngine) => UdpSocket
  readonly clock?: FakeClock
}

const module = await loadEngineModule()

/** Builds a machine. */
export function createMachine(plan: MachinePlan): Machine {
  const privateKey = generatePrivateKey()
  const engine = createEngine(module, { kind: plan.kind, privateKey })
  const clock = plan.clock ?? createFakeClock(1_000)
  const device = new MemoryTunDevice(engine)
  const socket = plan.openSocket(engine)
  const locals: Uint8Array[] = []
  const said: WorkerMessage[] = []
  let bursts = 0
  const pump = createPump({
    engine,
    socket,
    clock,
    ...(plan.kind === 'member' ? { device } : {}),
    onLocal: (packet) => locals.push(packet),
    onHeard: () => void bursts++,
    onHandshakes: () => requests.answerHandshakes(),
    onEvents: (events) => sockets.tell(events),
  })
  const sockets = new StackSockets({
    ...{ engine, pump, clock },
    say: (socket, news) => said.push({ kind: 'stack', socket, news }),
  })
  const counters = () => ({ ...socket.counters(), ...device.counters() })
  const requests = new Requests({ engine, pump, clock, say: (message) => said.push(message), sockets, counters })
  return {
    publicKey: publicKeyOf(privateKey),
    engine,
    device,
    pump,
    requests,
    clock,
    locals,
    said,
    heard: () => bursts,
  }
}

/** Two members and the hub between them, in one process. */
export interface Star {
  readonly network: MemoryNetwork
  readonly hub: Machine
  readonly alice: Machine
  readonly bob: Machine
  /** Runs everybody until nobody has anything to do. */
  settle(): void
}

export const addresses = {
  gateway4: '10.64.0.1',
  gateway6: 'fd64::1',
  alice4: '10.64.0.2',
  alice6: 'fd64::2',
  bob4: '10.64.0.3',
  bob6: 'fd64::3',
} as const

/** Builds the star; nobody has spoken yet. */
export function createStar(network: MemoryNetwork): Star {
  const clock = createFakeClock(1_000)
  const at = (host: string) => ({ address: host, port: 51_820 })
  const open = (host: string) => (engine: WireGuardEngine) => network.open(at(host), engine)
  const hub = createMachine({ kind: 'hub', openSocket: open('192.0.2.3'), clock })
  const alice = createMachine({ kind: 'member', openSocket: open('192.0.2.1'), clock })
  const bob = createMachine({ kind: 'member', openSocket: open('fd99::2'), clock })
  hub.engine.setGateways([addresses.gateway4, addresses.gateway6], [53])
  for (const [member, v4, v6] of [
    [alice, addresses.alice4, addresses.alice6],
    [bob, addresses.bob4, addresses.bob6],
  ] as const) {
    const peer = { publicKey: member.publicKey, keepaliveSeconds: 0, allowedPrefixes: [`${v4}/32`, `${v6}/128`] }
    ask(hub, 1, { kind: 'setPeer', peer })
    const allowedPrefixes = ['10.64.0.0/16', 'fd64::/64']
    const toHub = { publicKey: hub.publicKey, keepaliveSeconds: 0, endpoint: at('192.0.2.3'), allowedPrefixes }
    ask(member, 1, { kind: 'setPeer', peer: toHub })
  }
  const all = [hub, alice, bob]
  const settle = () => {
    while (all.map((machine) => machine.pump.turn()).includes(true));
  }
  return { network, hub, alice, bob, settle }
}

/** Lets both members shake hands with the hub. */
export function joinBoth({ hub, alice, bob, settle }: Star): void {
  for (const member of [alice, bob]) ask(member, 2, { kind: 'handshake', publicKey: hub.publicKey })
  settle()
}

/** Sends a request as the main thread would. */
export function ask(machine: Machine, id: number, request: Parameters<Requests['handle']>[0]['request']): void {
  machine.requests.handle({ id, request })
}
