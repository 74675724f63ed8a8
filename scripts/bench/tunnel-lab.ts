import { resolve } from 'node:path'
import { sleep, systemClock } from '../../src/base/clock.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/engine.ts'
import { Program } from '../../test/netns/tunnel-network.ts'
import type { ProgramConfig } from '../../test/netns/tunnel-program.ts'
import type { Machine } from '../demo/lab.ts'
import { need } from '../demo/seen.ts'
import { residentMib } from './machine.ts'
import { configureProgram, type WireguardProgram, waitForSocket } from './wireguard-programs.ts'

/** A path to measure: from one machine to an inner address of another, and the processes that carry it. */
export interface Path {
  readonly name: string
  readonly from: Machine
  readonly to: Machine
  readonly address: string
  readonly pids: readonly number[]
}

/** A path of ours, which can be asked. */
export interface OurPath extends Path {
  /** Counters of the two ends, sender first. */
  counters(): Promise<readonly Readonly<Record<string, number>>[]>
  /** Makes the first end begin a handshake; resolves when its session is there. */
  handshake(): Promise<void>
}

/** Two ends, or two members and the hub between them. */
export type Ends = readonly [Machine, Machine]

/** What every path of one kind needs: its own interface, subnet and UDP port, so that all may be up at once. */
export interface Place {
  readonly name: string
  /** Second byte of 10.N.0.0/16. */
  readonly subnet: number
  readonly port: number
}

/** Node's keys in the two spellings that are in use. */
function createKey() {
  const secret = generatePrivateKey()
  const open = publicKeyOf(secret)
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')
  const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString('base64')
  return { secretHex: hex(secret), secretText: base64(secret), publicHex: hex(open), publicText: base64(open) }
}
type Key = ReturnType<typeof createKey>

/** A device's settings in the terms of both kinds of program. */
interface Device {
  readonly machine: Machine
  readonly key: Key
  /** Inner address; undefined for a hub of ours, which has none. */
  readonly inner: string
  readonly peers: readonly { readonly key: Key; readonly allowed: string; readonly endpoint?: Machine }[]
}

/** The devices of a tunnel between two machines. */
function pointToPoint([a, b]: Ends, { subnet }: Place): readonly [Device, Device] {
  const [keyA, keyB] = [createKey(), createKey()]
  const [innerA, innerB] = [`10.${subnet}.0.2`, `10.${subnet}.0.3`]
  return [
    { machine: a, key: keyA, inner: innerA, peers: [{ key: keyB, allowed: `${innerB}/32`, endpoint: b }] },
    { machine: b, key: keyB, inner: innerB, peers: [{ key: keyA, allowed: `${innerA}/32`, endpoint: a }] },
  ]
}

/** The devices of two members and a hub. */
function throughHub([a, b]: Ends, hub: Machine, { subnet }: Place): readonly [Device, Device, Device] {
  const keys = [createKey(), createKey(), createKey()] as const
  const inner = (last: number) => `10.${subnet}.0.${last}`
  const member = (machine: Machine, own: 0 | 1): Device => ({
    machine,
    key: keys[own],
    inner: inner(own + 2),
    peers: [{ key: keys[2], allowed: `10.${subnet}.0.0/16`, endpoint: hub }],
  })
  const peers = [0, 1].map((own) => ({ key: keys[own] ?? keys[0], allowed: `${inner(own + 2)}/32` }))
  return [member(a, 0), member(b, 1), { machine: hub, key: keys[2], inner: inner(1), peers }]
}

/** A tunnel of ours between two machines. */
export async function openOurTunnel(ends: Ends, place: Place): Promise<OurPath> {
  return ourPath(ends, place, pointToPoint(ends, place))
}

/** Two members of ours and our hub. */
export async function openOurHub(ends: Ends, hub: Machine, place: Place): Promise<OurPath> {
  return ourPath(ends, place, throughHub(ends, hub, place))
}

async function ourPath([from, to]: Ends, place: Place, devices: readonly Device[]): Promise<OurPath> {
  const hub = devices[2]
  const ordered = hub ? [hub, ...devices.slice(0, 2)] : devices
  const started: Program[] = []
  for (const device of ordered) started.push(await startOurs(device, place, device === hub))
  const members = started.slice(-2)
  const peerKey = devices[0]?.peers[0]?.key.publicText ?? ''
  await members[0]?.ask(`handshake ${peerKey}`)
  if (hub) await members[1]?.ask(`handshake ${peerKey}`)
  return {
    name: place.name,
    from,
    to,
    address: devices[1]?.inner ?? '',
    pids: started.flatMap(({ child }) => child.pid ?? []),
    handshake: async () => void (await members[0]?.ask(`handshake ${peerKey}`)),
    counters: async () => {
      const answers = await Promise.all(members.map((member) => member.ask('stats')))
      return answers.map(({ stats }) => stats?.counters ?? {})
    },
  }
}

/** As `bin/nsm` starts the background process. */
const asStarted = {
  ...process.env,
  MALLOC_ARENA_MAX: '1',
  NODE_COMPILE_CACHE: resolve(import.meta.dirname, '../../node_modules/.cache/nsm-bench/compiled'),
}

async function startOurs(device: Device, place: Place, hub: boolean): Promise<Program> {
  const config: Partial<ProgramConfig> = {
    role: hub ? 'hub' : 'member',
    privateKey: device.key.secretText,
    listenPort: place.port,
    interfaceName: place.name,
    gateways: hub ? [device.inner] : [],
    peers: device.peers.map(({ key, allowed, endpoint }) => ({
      publicKey: key.publicText,
      keepaliveSeconds: 0,
      allowedPrefixes: [allowed],
      ...(endpoint ? { endpoint: { address: endpoint.address, port: place.port } } : {}),
    })),
  }
  const program = new Program(device.machine.namespace, config, asStarted)
  const answer = await program.next()
  need({ exitCode: answer.ready ? 0 : 1, out: JSON.stringify(answer), err: program.log, tookMs: 0 })
  if (!hub) await giveAddress(device, place.name)
  return program
}

/** Ours: a packet thread gives memory back once a second. */
const settleMs = 2_500

/** Our hub with as many peers as given, none of which ever says anything; its resident memory in MiB. */
export async function idleHubMib(machine: Machine, peers: number, place: Place): Promise<number> {
  const own = { machine, key: createKey(), inner: `10.${place.subnet}.0.1` }
  const idle = Array.from({ length: peers }, (_, i) => ({
    key: createKey(),
    allowed: `10.${place.subnet}.${1 + (i >> 8)}.${i & 255}/32`,
  }))
  const program = await startOurs({ ...own, peers: idle }, place, true)
  try {
    await sleep(systemClock, settleMs)
    return residentMib(program.child.pid ?? 0)
  } finally {
    await program.kill()
  }
}

/** A tunnel of another program between two machines. */
export async function openTheirTunnel(program: WireguardProgram, ends: Ends, place: Place): Promise<Path> {
  return theirPath(program, ends, place, pointToPoint(ends, place))
}

/** Two members and a hub of another program; the hub's kernel forwards. */
export async function openTheirHub(program: WireguardProgram, ends: Ends, hub: Machine, place: Place): Promise<Path> {
  need(await hub.run('sysctl', ['-qw', 'net.ipv4.ip_forward=1']))
  return theirPath(program, ends, place, throughHub(ends, hub, place))
}

async function theirPath(
  program: WireguardProgram,
  [from, to]: Ends,
  place: Place,
  devices: readonly Device[],
): Promise<Path> {
  const pids: number[] = []
  for (const [index, device] of devices.entries()) {
    pids.push(await startTheirs(program, device, { ...place, name: `${place.name}${index}` }))
  }
  const [left, right, hub] = devices
  // The hub learns the members' endpoints from their first packets.
  if (hub)
    for (const { machine } of [left, right].flatMap((device) => device ?? [])) need(await ping(machine, hub.inner))
  return { name: place.name, from, to, address: right?.inner ?? '', pids }
}

const ping = (machine: Machine, to: string) => machine.run('ping', ['-q', '-c', '1', '-W', '5', to])

/** The process's id. */
async function startTheirs(program: WireguardProgram, device: Device, place: Place): Promise<number> {
  const { machine } = device
  const child = machine.start(program.path, [...program.args, place.name])
  await waitForSocket(place.name)
  await configureProgram(place.name, [
    `private_key=${device.key.secretHex}`,
    `listen_port=${place.port}`,
    ...device.peers.flatMap(({ key, allowed, endpoint }) => [
      `public_key=${key.publicHex}`,
      ...(endpoint ? [`endpoint=${endpoint.address}:${place.port}`] : []),
      `allowed_ip=${allowed}`,
    ]),
  ])
  await giveAddress(device, place.name)
  return child.pid ?? Number.NaN
}

/** The same for every program: one address with the route of its subnet. */
async function giveAddress({ machine, inner }: Device, interfaceName: string): Promise<void> {
  need(await machine.run('ip', ['addr', 'add', `${inner}/16`, 'dev', interfaceName]))
  need(await machine.run('ip', ['link', 'set', interfaceName, 'mtu', '1420', 'up']))
}
