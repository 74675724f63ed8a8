import { NsmError } from '../base/errors.ts'
import { formatPrefix, parseAddress, parsePrefix } from '../base/ip.ts'
import { keyFromHex, keyToHex } from './key-text.ts'
import { errno } from './sys/errno.ts'
import type { PeerSettings } from './wireguard/engine.ts'

/** What a WireGuard device is set to. */
export interface DeviceSettings {
  /** Undefined: the device talks to nobody. */
  readonly privateKey: Uint8Array | undefined
  /** UDP; 0 asks for any free one. */
  readonly listenPort: number
  readonly peers: readonly PeerSettings[]
}

/** Ours: as many peers as one engine holds. */
const peersMax = 4_096

/**
 * The settings after a `set=1` request of the cross-platform control protocol, without its first line; or the number of the
 * error that the answer carries, and then nothing has changed. Lines before the first `public_key` are the device's.
 */
export function applySet(lines: readonly string[], before: DeviceSettings): DeviceSettings | number {
  const draft = new DeviceDraft(before)
  try {
    for (const line of lines) {
      const equals = line.indexOf('=')
      if (equals <= 0 || !draft.set(line.slice(0, equals), line.slice(equals + 1))) return errno.EINVAL
    }
    return draft.finish()
  } catch (error) {
    // What the parsers of addresses say of a line.
    if (error instanceof NsmError) return errno.EINVAL
    throw error
  }
}

interface PeerDraft {
  readonly publicKey: Uint8Array
  presharedKey: Uint8Array | undefined
  keepaliveSeconds: number
  endpoint: PeerSettings['endpoint']
  prefixes: Set<string>
}

type Setter = (value: string) => boolean

/** Settings under way; every setter answers false for a value that is none. */
class DeviceDraft {
  #privateKey: Uint8Array | undefined
  #listenPort: number
  readonly #peers: Map<string, PeerDraft>
  #peer: PeerDraft | 'ignored' | undefined
  #isNew = false

  constructor({ privateKey, listenPort, peers }: DeviceSettings) {
    this.#privateKey = privateKey
    this.#listenPort = listenPort
    this.#peers = new Map(
      peers.map(({ allowedPrefixes, publicKey, presharedKey, keepaliveSeconds, endpoint }) => [
        keyToHex(publicKey),
        { publicKey, presharedKey, keepaliveSeconds, endpoint, prefixes: new Set(allowedPrefixes) },
      ]),
    )
  }

  set(name: string, value: string): boolean {
    if (name === 'public_key') return this.#begin(value)
    const setters = this.#peer === undefined ? this.#deviceSetters : this.#peerSetters
    const setter = Object.hasOwn(setters, name) ? setters[name] : undefined
    return setter?.(value) ?? false
  }

  finish(): DeviceSettings | number {
    if (this.#peers.size > peersMax) return errno.ENOSPC
    const peers = [...this.#peers.values()].map(({ prefixes, endpoint, presharedKey, ...rest }) => ({
      ...rest,
      allowedPrefixes: [...prefixes],
      ...(endpoint ? { endpoint } : {}),
      ...(presharedKey ? { presharedKey } : {}),
    }))
    return { privateKey: this.#privateKey, listenPort: this.#listenPort, peers }
  }

  readonly #deviceSetters: Readonly<Record<string, Setter>> = {
    private_key: (value) => {
      const key = keyFromHex(value)
      this.#privateKey = isZero(key) ? undefined : key
      return key !== undefined
    },
    listen_port: (value) => {
      this.#listenPort = numberOf(value)
      return this.#listenPort >= 0
    },
    // The packets of tunnels have the program's own mark, by which they keep out of tunnels.
    fwmark: (value) => value === '' || /^0(x0+)?$/.test(value),
    replace_peers: (value) => {
      if (value === 'true') this.#peers.clear()
      return value === 'true'
    },
  }

  readonly #peerSetters: Readonly<Record<string, Setter>> = {
    remove: (value) => {
      this.#change((peer) => this.#peers.delete(keyToHex(peer.publicKey)))
      return value === 'true'
    },
    update_only: (value) => {
      if (this.#isNew) this.#change((peer) => this.#peers.delete(keyToHex(peer.publicKey)))
      if (this.#isNew) this.#peer = 'ignored'
      return value === 'true'
    },
    preshared_key: (value) => {
      const key = keyFromHex(value)
      this.#change((peer) => {
        peer.presharedKey = isZero(key) ? undefined : key
      })
      return key !== undefined
    },
    endpoint: (value) => {
      const endpoint = endpointOf(value)
      this.#change((peer) => {
        peer.endpoint = endpoint
      })
      return endpoint !== undefined
    },
    persistent_keepalive_interval: (value) => {
      const seconds = numberOf(value)
      this.#change((peer) => {
        peer.keepaliveSeconds = seconds
      })
      return seconds >= 0
    },
    replace_allowed_ips: (value) => {
      this.#change((peer) => peer.prefixes.clear())
      return value === 'true'
    },
    allowed_ip: (value) => this.#allow(value),
    protocol_version: (value) => value === '1',
  }

  #begin(value: string): boolean {
    const publicKey = keyFromHex(value)
    if (!publicKey) return false
    const known = this.#peers.get(keyToHex(publicKey))
    this.#isNew = known === undefined
    const peer = known ?? {
      ...{ publicKey, presharedKey: undefined, keepaliveSeconds: 0, endpoint: undefined },
      prefixes: new Set<string>(),
    }
    this.#peers.set(keyToHex(publicKey), peer)
    this.#peer = peer
    return true
  }

  #change(act: (peer: PeerDraft) => void): void {
    if (this.#peer !== undefined && this.#peer !== 'ignored') act(this.#peer)
  }

  /** A prefix belongs to one peer: the last one that it was given to. `-` in front takes it away. */
  #allow(value: string): boolean {
    const isRemoval = value.startsWith('-')
    const prefix = formatPrefix(parsePrefix(isRemoval ? value.slice(1) : value))
    this.#change((peer) => {
      if (isRemoval) return void peer.prefixes.delete(prefix)
      for (const other of this.#peers.values()) if (other !== peer) other.prefixes.delete(prefix)
      peer.prefixes.add(prefix)
    })
    return true
  }
}

/** A 16-bit number, -1 for what is none. */
function numberOf(value: string): number {
  return /^\d{1,5}$/.test(value) && Number(value) <= 0xffff ? Number(value) : -1
}

function endpointOf(value: string): PeerSettings['endpoint'] {
  const found = /^(?:\[([^\]]+)\]|([0-9.]+)):(\d{1,5})$/.exec(value)
  const address = found?.[1] ?? found?.[2]
  const port = numberOf(found?.[3] ?? '')
  if (address === undefined || port <= 0) return undefined
  parseAddress(address)
  return { address, port }
}

function isZero(key: Uint8Array | undefined): boolean {
  return key?.every((byte) => byte === 0) ?? false
}
