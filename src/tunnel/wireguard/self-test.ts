import { createCipheriv } from 'node:crypto'
import { type Aead, createAead } from './aead.ts'
import { createEngine, descriptorWords, type WireGuardEngine } from './engine.ts'
import { generatePrivateKey, publicKeyOf } from './keys.ts'
import { writeSockaddr } from './sockaddr.ts'

/** [RFC 8439 2.8.2], which takes the code for short texts. */
const known = {
  key: Buffer.from('808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f', 'hex'),
  nonce: Buffer.from('070000004041424344454647', 'hex'),
  additional: Buffer.from('50515253c0c1c2c3c4c5c6c7', 'hex'),
  text: Buffer.from(
    "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.",
  ),
  tag: '1ae10b594f09e26a7e902ecbd0600691',
} as const

/** Texts of a packet's size take the SIMD code; compared with Node's own cipher. */
const packetSizes = [192, 1_420] as const
const packetBytes = 1_420
/** Enough to warm the optimising compiler up without delaying the start. */
const warmBursts = 3
const burstPackets = 16

/**
 * Checks the cipher against known answers, then lets two engines shake hands and exchange a few bursts.
 * Takes a few milliseconds; the compiled code it warms up is shared by all instances of the module.
 *
 * @returns false when this machine computes anything wrong: no tunnel may be opened then
 */
export function selfTest(module: WebAssembly.Module): boolean {
  try {
    return cipherAnswers(createAead(module)) && packetsPass(module)
  } catch {
    return false
  }
}

function cipherAnswers(aead: Aead): boolean {
  const tag = Buffer.from(aead.seal(known)).subarray(-16).toString('hex')
  return tag === known.tag && packetSizes.every((size) => agreesWithNode(aead, size))
}

function agreesWithNode(aead: Aead, size: number): boolean {
  const { key, nonce } = known
  const text = Uint8Array.from({ length: size }, (_, i) => (i * 7) & 0xff)
  const cipher = createCipheriv('chacha20-poly1305', key, nonce, { authTagLength: 16 })
  const expected = Buffer.concat([cipher.update(text), cipher.final(), cipher.getAuthTag()])
  const sealed = aead.seal({ key, nonce, text })
  const opened = aead.open({ key, nonce, text: sealed })
  const forged = Uint8Array.from(sealed, (byte, i) => (i === size - 1 ? byte ^ 1 : byte))
  return (
    expected.equals(sealed) &&
    opened !== undefined &&
    Buffer.from(opened).equals(text) &&
    aead.open({ key, nonce, text: forged }) === undefined
  )
}

/** A member sends to another through their real handshake; true when every packet arrives. */
function packetsPass(module: WebAssembly.Module): boolean {
  const keys = [generatePrivateKey(), generatePrivateKey()] as const
  const [a, b] = keys.map((privateKey) => createEngine(module, { kind: 'member', privateKey, peersMax: 1 }))
  if (!a || !b) return false
  const endpoint = { address: '127.0.0.1', port: 1 }
  const common = { keepaliveSeconds: 0, endpoint, allowedPrefixes: ['0.0.0.0/0'] }
  a.addPeer({ ...common, publicKey: publicKeyOf(keys[1]) })
  b.addPeer({ ...common, publicKey: publicKeyOf(keys[0]) })
  a.handshake(0)
  handOver(a, b)
  handOver(b, a)
  handOver(a, b)
  let arrived = 0
  for (let burst = 0; burst < warmBursts; burst++) {
    fillReads(a)
    a.fromDevice(burstPackets, burst)
    arrived += handOver(a, b)
  }
  return arrived === warmBursts * burstPackets
}

/** Moves what one engine sends into the other; gives the number of packets for the device. */
function handOver(from: WireGuardEngine, to: WireGuardEngine): number {
  const count = Math.min(from.result.sends, to.received.capacity)
  for (let i = 0; i < count; i++) {
    const source = from.sends.offset / 4 + i * descriptorWords
    const target = to.received.offset / 4 + i * descriptorWords
    const [offset = 0, bytes = 0, segment = 0] = from.u32.subarray(source, source + 3)
    to.u8.set(from.u8.subarray(offset, offset + bytes), to.u32[target])
    to.u32[target + 1] = bytes
    to.u32[target + 2] = segment
    writeSockaddr(to.u8.subarray(target * 4 + 16, target * 4 + 48), { address: '127.0.0.1', port: 1 })
  }
  to.fromNetwork(count, 0)
  return to.result.deviceWrites
}

/** Smallest IPv4 packets of one size: protocol 253 is for experiments [RFC 3692]. */
function fillReads(engine: WireGuardEngine): void {
  const header = [0x45, 0, packetBytes >> 8, packetBytes & 0xff, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
  for (let i = 0; i < burstPackets; i++) {
    const at = engine.deviceReads.offset / 4 + i * descriptorWords
    engine.u8.set(header, (engine.u32[at] ?? 0) + 10)
    engine.u32[at + 1] = 10 + packetBytes
  }
}
