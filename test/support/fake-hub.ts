import type { NsmError } from '../../src/base/errors.ts'
import type { Hub, HubConfig } from '../../src/tunnel/hub.ts'
import type { PeerConfig, TunnelStats } from '../../src/tunnel/tunnels.ts'

/** A hub without sockets: it records its peers and everything that was asked of it, and can be made to fail. */
export interface FakeHub extends Hub {
  readonly config: HubConfig
  /** By base64 public key. */
  readonly peers: ReadonlyMap<string, PeerConfig>
  /** `set <key>`, `remove <key>` and `handshake <key>`, in order. */
  readonly calls: readonly string[]
  /** Raw IP packets the endpoint sent. */
  readonly sent: readonly Uint8Array[]
  readonly isClosed: boolean
  /** Underlay endpoint that `stats` reports for a key. */
  readonly seenAt: Map<string, { readonly address: string; readonly port: number }>
  /** Bytes that `stats` reports as received from a key. */
  readonly received: Map<string, number>
  /** The next setPeer rejects with this. */
  failNext(error: NsmError): void
}

/** Opens a fake hub with the settings of a real one. */
export function openFakeHub(config: HubConfig): FakeHub {
  const peers = new Map<string, PeerConfig>()
  const calls: string[] = []
  const sent: Uint8Array[] = []
  const seenAt = new Map<string, { readonly address: string; readonly port: number }>()
  const received = new Map<string, number>()
  let isClosed = false
  let failure: NsmError | undefined
  const base64 = (key: Uint8Array) => Buffer.from(key).toString('base64')
  const stats = (): TunnelStats => ({
    counters: {},
    peers: [...peers.keys()].map((publicKey) => ({
      publicKey,
      lastHandshakeAgeMs: undefined,
      rttMs: undefined,
      receivedBytes: received.get(publicKey) ?? 0,
      sentBytes: 0,
      spoofed: 0,
      endpoint: seenAt.get(publicKey),
    })),
  })
  return {
    config,
    peers,
    calls,
    sent,
    seenAt,
    received,
    listenPort: config.listenPort || 51_820,
    failed: new Promise(() => {}),
    get isClosed() {
      return isClosed
    },
    failNext(error) {
      failure = error
    },
    async setPeer(peer) {
      const thrown = failure
      failure = undefined
      if (thrown) throw thrown
      calls.push(`set ${base64(peer.publicKey)}`)
      peers.set(base64(peer.publicKey), peer)
    },
    async removePeer(publicKey) {
      calls.push(`remove ${base64(publicKey)}`)
      peers.delete(base64(publicKey))
    },
    async handshake(publicKey, signal) {
      calls.push(`handshake ${base64(publicKey)}`)
      await new Promise((_resolve, reject) => signal.addEventListener('abort', reject, { once: true }))
    },
    listenTcp: async () => ({ close() {} }),
    sendLocal: (packet) => void sent.push(packet),
    async setGateways() {},
    stats: async () => stats(),
    async close() {
      isClosed = true
    },
  }
}
