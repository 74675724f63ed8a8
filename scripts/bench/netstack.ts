import { resolve } from 'node:path'
import { NsmError } from '../../src/base/errors.ts'
import { generatePrivateKey, publicKeyOf } from '../../src/tunnel/wireguard/engine.ts'
import { Program } from '../../test/netns/tunnel-network.ts'
import type { ProgramConfig } from '../../test/netns/tunnel-program.ts'
import type { Lab, Machine } from '../demo/lab.ts'
import { need } from '../demo/seen.ts'
import { median, row } from './figures.ts'
import { cleanRuns, processorSeconds } from './machine.ts'
import type { BenchRow } from './section.ts'
import { buildNetstackSender, type WireguardProgram } from './wireguard-programs.ts'

/* One TCP connection that a program sends by a TCP/IP stack of its own, without a device: ours, wireguard-go's, and for the
 * ratio the same program of ours by a device. All send to one of ours with a device, which takes and counts. */

/** Ours: seconds of one run, and the port that takes. */
const runSeconds = 3
const sinkPort = 7_001
const mtuBytes = 1_420
/** Ours: a run that hangs is given up. */
const runTimeoutMs = 20_000

/** What one run gave. */
interface Measured {
  readonly gigabits: number
  readonly secondsPerGb: number
}

/** A sender and its receiver. */
interface Way {
  /** Sends to the receiver; gives the processor seconds the sender took. */
  readonly send: () => Promise<number>
  readonly receiver: Program
  close(): Promise<void>
}

/** The userspace stack beside wireguard-go's, and beside a device. */
export async function netstackRows(
  lab: Lab,
  { go, runs }: { readonly go: WireguardProgram; readonly runs: number },
): Promise<BenchRow[]> {
  const sender = await buildNetstackSender(go.version)
  if ('missing' in sender) throw new NsmError('NOT_READY', sender.missing, '')
  const [left, right] = [lab.machine('left'), lab.machine('right')]
  const open = (index: number) => ({ left, right, subnet: 120 + index, port: 51_820 + index })
  const ways = [
    await openOurs(open(1), 'rootless'),
    await openOurs(open(2), 'member'),
    await openTheirs(open(3), sender.path),
  ]
  try {
    const { values } = await cleanRuns(runs, async () => {
      const round: Measured[] = []
      for (const way of ways) round.push(await measure(way))
      return round
    })
    const of = (way: number, what: keyof Measured) => median(values.map((round) => round[way]?.[what] ?? Number.NaN))
    const both = (peer: number, what: keyof Measured) => ({ ours: of(0, what), peer: of(peer, what) })
    const label = 'TCP without a device, 1 stream'
    const speed = { unit: 'Gbit/s', betterIs: 'higher' } as const
    const cost = { unit: 's/GB', betterIs: 'lower' } as const
    return [
      row({ label, ...both(2, 'gigabits'), ...speed }),
      row({ label: `${label}: processor, applications included`, ...both(2, 'secondsPerGb'), ...cost }),
      row({ label: `${label}, beside ours with a device`, ...both(1, 'gigabits'), ...speed }),
      row({ label: `${label}, beside ours with a device: processor`, ...both(1, 'secondsPerGb'), ...cost }),
    ]
  } finally {
    for (const way of ways) await way.close()
  }
}

async function measure({ send, receiver }: Way): Promise<Measured> {
  await receiver.ask(`sink ${sinkPort}`)
  const pids = [receiver.child.pid ?? 0]
  const before = processorSeconds(pids)
  const ofSender = await send()
  const { sunk } = await receiver.ask('sunk')
  if (!sunk) throw new NsmError('NOT_READY', 'nothing arrived', '')
  const seconds = ofSender + processorSeconds(pids) - before
  return { gigabits: (sunk.bytes * 8) / sunk.seconds / 1e9, secondsPerGb: seconds / (sunk.bytes / 1e9) }
}

interface Place {
  readonly left: Machine
  readonly right: Machine
  readonly subnet: number
  readonly port: number
}

/** As `bin/nsm` starts the background process. */
const asStarted = {
  ...process.env,
  MALLOC_ARENA_MAX: '1',
  NODE_COMPILE_CACHE: resolve(import.meta.dirname, '../../node_modules/.cache/nsm-bench/compiled'),
}

function keyPair() {
  const secret = generatePrivateKey()
  const as = (encoding: BufferEncoding) => ({
    secret: Buffer.from(secret).toString(encoding),
    open: Buffer.from(publicKeyOf(secret)).toString(encoding),
  })
  return { text: as('base64'), hex: as('hex') }
}
type Keys = ReturnType<typeof keyPair>

async function startOurs(
  { machine, keys, own }: { readonly machine: Machine; readonly keys: Keys; readonly own: string },
  config: Partial<ProgramConfig>,
): Promise<Program> {
  const whole = { privateKey: keys.text.secret, addresses: [own], mtuBytes, ...config }
  const program = new Program(machine.namespace, whole, asStarted)
  const answer = await program.next()
  need({ exitCode: answer.ready ? 0 : 1, out: JSON.stringify(answer), err: program.log, tookMs: 0 })
  return program
}

const addressesOf = ({ subnet }: Place) => [`10.${subnet}.0.2`, `10.${subnet}.0.3`] as const

function startReceiver(place: Place, keys: Keys, sender: Keys): Promise<Program> {
  const [from, to] = addressesOf(place)
  return startOurs(
    { machine: place.right, keys, own: `${to}/32` },
    {
      interfaceName: `nsmr${place.subnet}`,
      listenPort: place.port,
      routes: [`${from}/32`],
      peers: [{ publicKey: sender.text.open, keepaliveSeconds: 0, allowedPrefixes: [`${from}/32`] }],
    },
  )
}

async function openOurs(place: Place, role: 'rootless' | 'member'): Promise<Way> {
  const [from, to] = addressesOf(place)
  const [mine, theirs] = [keyPair(), keyPair()]
  const receiver = await startReceiver(place, theirs, mine)
  const sender = await startOurs(
    { machine: place.left, keys: mine, own: role === 'rootless' ? from : `${from}/32` },
    {
      role,
      interfaceName: `nsms${place.subnet}`,
      routes: role === 'rootless' ? [] : [`${to}/32`],
      peers: [
        {
          publicKey: theirs.text.open,
          keepaliveSeconds: 0,
          endpoint: { address: place.right.address, port: place.port },
          allowedPrefixes: [`${to}/32`],
        },
      ],
    },
  )
  await sender.ask(`handshake ${theirs.text.open}`)
  const send = async () => {
    const before = processorSeconds([sender.child.pid ?? 0])
    await sender.ask(`send ${to} ${sinkPort} ${runSeconds}`)
    return processorSeconds([sender.child.pid ?? 0]) - before
  }
  return { send, receiver, close: async () => void (await Promise.all([sender.kill(), receiver.kill()])) }
}

async function openTheirs(place: Place, path: string): Promise<Way> {
  const [from, to] = addressesOf(place)
  const [mine, theirs] = [keyPair(), keyPair()]
  const receiver = await startReceiver(place, theirs, mine)
  const endpoint = `${place.right.address}:${place.port}`
  const args = [mine.hex.secret, theirs.hex.open, endpoint, from, `${to}:${sinkPort}`, String(runSeconds)]
  const send = async () => {
    const { out } = need(await place.left.run(path, args, { timeoutMs: runTimeoutMs }))
    return Number(out.trim().split(' ')[1])
  }
  return { send, receiver, close: () => receiver.kill() }
}
