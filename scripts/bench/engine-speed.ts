import {
  createEngine,
  descriptorWords,
  generatePrivateKey,
  loadEngineModule,
  publicKeyOf,
  type WireGuardEngine,
} from '../../src/tunnel/wireguard/engine.ts'
import { testedWideCipher } from '../../src/tunnel/wireguard/self-test.ts'
import { writeSockaddr } from '../../src/tunnel/wireguard/sockaddr.ts'
import { superPacket, tcpPacket } from '../../test/tunnel/wireguard/packets.ts'
import { execute } from '../demo/lab.ts'
import { median, row } from './figures.ts'
import type { BenchRow } from './section.ts'

/** Inner packets of 1,420 bytes, 44 in a super-packet, as a full interface of MTU 1420 hands them over. */
const packetBytes = 1_420
const packets = 44
const payloadBytes = packetBytes - 40
/** Ours: bursts of one measurement, some 0.1 s. */
const bursts = 800
/** Ours: V8 compiles its best code after a few hundred. */
const warmBursts = 1_500

/** The engine's cost for one packet beside OpenSSL's for the bytes alone, in turn. */
export async function measureEngine(
  runs: number,
): Promise<{ readonly rows: readonly BenchRow[]; readonly versions: Readonly<Record<string, string>> }> {
  const module = await loadEngineModule()
  const pair = connectPair(module, testedWideCipher(module))
  pair.run(warmBursts)
  const sealed: number[] = []
  const opened: number[] = []
  const openssl: number[] = []
  for (let run = 0; run < runs; run++) {
    const ours = pair.run(bursts)
    sealed.push(ours.sealNs)
    opened.push(ours.openNs)
    openssl.push(await opensslNs())
  }
  const figure = (label: string, ours: readonly number[]) =>
    row({ label, ours: median(ours), peer: median(openssl), unit: 'ns', limit: 2.5, betterIs: 'lower' })
  const version = (await execute('openssl', ['version'])).out.trim()
  return {
    rows: [
      figure('one 1420 B packet, encapsulate, against openssl speed', sealed),
      figure('one 1420 B packet, decapsulate, against openssl speed', opened),
    ],
    versions: { openssl: version },
  }
}

/** Nanoseconds of ChaCha20-Poly1305 for one packet's bytes, as `openssl speed` has it. */
async function opensslNs(): Promise<number> {
  const args = ['speed', '-seconds', '1', '-bytes', String(packetBytes), '-evp', 'chacha20-poly1305']
  const { out } = await execute('openssl', args)
  const kilobytes = Number(/ChaCha20-Poly1305\s+([\d.]+)k/i.exec(out)?.[1])
  return (packetBytes / (kilobytes * 1000)) * 1e9
}

const addressA = { address: '192.0.2.1', port: 51_820 }
const addressB = { address: '192.0.2.2', port: 51_820 }

/** Two engines with a session, and the measurement between them. */
function connectPair(module: WebAssembly.Module, wideCipher: WebAssembly.Module | undefined) {
  const [keyA, keyB] = [generatePrivateKey(), generatePrivateKey()]
  const a = createEngine(module, { kind: 'member', privateKey: keyA, peersMax: 1, wideCipher })
  const b = createEngine(module, { kind: 'member', privateKey: keyB, peersMax: 1, wideCipher })
  const settings = { keepaliveSeconds: 0 }
  const toB = { ...settings, publicKey: publicKeyOf(keyB), endpoint: addressB, allowedPrefixes: ['10.0.0.2/32'] }
  const peer = a.addPeer(toB)
  b.addPeer({ ...settings, publicKey: publicKeyOf(keyA), allowedPrefixes: ['10.0.0.1/32'] })
  a.tick(1)
  b.tick(1)
  a.handshake(Number(peer), 1)
  b.fromNetwork(carry(a, b, addressA), 1)
  a.fromNetwork(carry(b, a, addressB), 1)
  b.fromNetwork(carry(a, b, addressA), 1)
  const packet = superPacket(
    tcpPacket({ from: '10.0.0.1', to: '10.0.0.2', payload: new Uint8Array(packets * payloadBytes) }),
    payloadBytes,
  )
  return { run: (count: number) => measure(a, b, { packet, count }) }
}

interface Bursts {
  readonly packet: Buffer
  readonly count: number
}

/** Medians over the bursts, nanoseconds for each packet. */
function measure(a: WireGuardEngine, b: WireGuardEngine, { packet, count }: Bursts) {
  const sealNs: number[] = []
  const openNs: number[] = []
  for (let burst = 0; burst < count; burst++) {
    const at = a.deviceReads.offset / 4
    a.u8.set(packet, a.u32[at])
    a.u32[at + 1] = packet.length
    sealNs.push(timed(() => a.fromDevice(1, 2)))
    const messages = carry(a, b, addressA)
    openNs.push(timed(() => b.fromNetwork(messages, 2)))
  }
  return { sealNs: median(sealNs) / packets, openNs: median(openNs) / packets }
}

function timed(act: () => void): number {
  const before = process.hrtime.bigint()
  act()
  return Number(process.hrtime.bigint() - before)
}

/** Copies what one engine wants to send into the other's receive ring; the messages. */
function carry(from: WireGuardEngine, to: WireGuardEngine, source: { address: string; port: number }): number {
  const messages = from.result.sends
  for (let i = 0; i < messages; i++) {
    const out = from.sends.offset / 4 + i * descriptorWords
    const into = to.received.offset / 4 + i * descriptorWords
    const [offset = 0, bytes = 0, segment = 0] = from.u32.subarray(out, out + 3)
    to.u8.set(from.u8.subarray(offset, offset + bytes), to.u32[into])
    to.u32.set([bytes, segment], into + 1)
    writeSockaddr(to.u8.subarray(into * 4 + 16, into * 4 + 48), source)
  }
  return messages
}
