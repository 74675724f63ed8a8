import { randomBytes } from 'node:crypto'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import {
  createEngine,
  descriptorWords,
  generatePrivateKey,
  loadEngineModule,
} from '../../src/tunnel/wireguard/engine.ts'

/* Somebody who has no key of the tunnel, as a process in a namespace. Sends datagrams to a WireGuard port and tells what came
 * back. usage: wireguard-stranger.ts garbage|initiations ADDRESS PORT COUNT PUBLIC_KEY ; prints one line of JSON, a blank
 * in front of it once datagrams flow.
 * `initiations` have a right mac1 [WG 5.4.4] and an unknown static key. COUNT 0 goes on until it is ended. */

const [kind = '', address = '', port = '', count = '', publicKey = ''] = process.argv.slice(2)
/** Handed to the system before the event loop gets its turn. */
const atOnce = 64
/** Initiations that a flood repeats. */
const differentMax = 64

const datagrams = kind === 'initiations' ? await initiations() : garbage()
const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4')
let received = 0
socket.on('message', () => {
  received++
})
socket.bind()
await once(socket, 'listening')
let sent = 0
for (; Number(count) === 0 || sent < Number(count); sent++) {
  socket.send(datagrams[sent % datagrams.length] ?? '', Number(port), address)
  if (sent === atOnce) process.stdout.write(' ')
  if (sent % atOnce === 0) await delay(kind === 'initiations' ? 20 : 1)
}
await delay(500)
process.stdout.write(`${JSON.stringify({ sent, received })}\n`)
process.exit(0)

/** Random bytes, and messages of each kind that are right but for their keys [WG 5.4]. */
function garbage(): Uint8Array[] {
  const lengths = [148, 92, 64, 32, 80, 1_452]
  return Array.from({ length: 4_096 }, (_, i) => {
    const length = i % 3 === 0 ? (i * 7) % 1_500 : (lengths[i % lengths.length] ?? 32)
    const bytes = randomBytes(length)
    if (i % 3 !== 0) bytes.set([(i % 4) + 1, 0, 0, 0])
    // The index of the first peer's first sessions, so that some reach the cipher.
    if (i % 4 === 3 && length >= 16) bytes.set([i % 3, 0, 0, 0], 4)
    return bytes
  })
}

async function initiations(): Promise<Uint8Array[]> {
  const engine = createEngine(await loadEngineModule(), { kind: 'member', privateKey: generatePrivateKey() })
  const peer = engine.addPeer({
    publicKey: Uint8Array.from(Buffer.from(publicKey, 'base64')),
    endpoint: { address: '192.0.2.1', port: 1 },
    keepaliveSeconds: 0,
    allowedPrefixes: [],
  })
  return Array.from({ length: differentMax }, (_, i) => {
    engine.handshake(Number(peer), 1_000 * i)
    const at = engine.sends.offset / 4
    const [offset = 0, bytes = 0] = engine.u32.subarray(at, at + descriptorWords)
    return engine.u8.slice(offset, offset + bytes)
  })
}
