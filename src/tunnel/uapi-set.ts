import { NsmError } from '../base/errors.ts'
import { formatPrefix, parseAddress, parsePrefix } from '../base/ip.ts'
import { keyFromHex, keyToHex } from './key-text.ts'
import { errno } from './sys/errno.ts'
import { clamped, type PeerSettings, publicKeyOf } from './wireguard/engine.ts'

/** What a WireGuard device is set to. */
export interface DeviceSettings {
  /** Undefined: the device talks to nobody. */
  readonly privateKey: Uint8Array | undefined
  /** UDP; 0 asks for any free one. */
  readonly listenPort: number
  /** Of the tunnel's own UDP packets, 32 bits; 0 is the program's own, by which tunnels keep out of tunnels. */
  readonly fwmark: number
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
      if (equals < 0) return errno.EPROTO
      if (!draft.set(line.slice(0, equals), line.slice(equals + 1))) return errno.EINVAL
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
  /** Public, in hexadecimal digits. */
  #ownKey: string | undefined
  #listenPort: number
  #fwmark: number
  readonly #peers: Map<string, PeerDraft>
  #peer: PeerDraft | 'ignored' | undefined
  #isNew = false

  constructor({ privateKey, listenPort, fwmark, peers }: DeviceSettings) {
    this.#privateKey = privateKey
    this.#ownKey = privateKey && keyToHex(publicKeyOf(privateKey))
    this.#listenPort = listenPort
    this.#fwmark = fwmark
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
    return { privateKey: this.#privateKey, listenPort: this.#listenPort, fwmark: this.#fwmark, peers }
  }

  readonly #deviceSetters: Readonly<Record<string, Setter>> = {
    private_key: (value) => {
      const key = keyFromHex(value)
      this.#privateKey = key && !isZero(key) ? clamped(key) : undefined
      this.#ownKey = this.#privateKey && keyToHex(publicKeyOf(this.#privateKey))
      this.#peers.delete(this.#ownKey ?? '')
      return key !== undefined
    },
    listen_port: (value) => {
      this.#listenPort = numberOf(value)
      return this.#listenPort >= 0
    },
    fwmark: (value) => {
      this.#fwmark = numberOf(value, 0xffff_ffff)
      return this.#fwmark >= 0
    },
    replace_peers: (value) => {
      if (value === 'true') this.#peers.clear()
      return value === 'true'
    },
  }

  readonly #peerSetters: Readonly<Record<string, Setter>> = {
    remove: (value) => {
      this.#forget()
      return value === 'true'
    },
    update_only: (value) => {
      if (this.#isNew) this.#forget()
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
    // [wireguard-go device/uapi.go] A peer with the device's own key is passed over.
    if (keyToHex(publicKey) === this.#ownKey) {
      this.#peer = 'ignored'
      return true
    }
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

  /** What else is said of the peer is for nobody. */
  #forget(): void {
    this.#change((peer) => this.#peers.delete(keyToHex(peer.publicKey)))
    this.#peer = 'ignored'
  }

  #change(act: (peer: PeerDraft) => void): void {
    if (this.#peer !== undefined && this.#peer !== 'ignored') act(this.#peer)
  }

  /** A prefix belongs to one peer: the last one that it was given to. `-` in front takes it away. */
  #allow(value: string): boolean {
    if (!value.includes('/')) return false
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

/** A number of at most 16 bits, or as said, in decimal digits; -1 for what is none. */
function numberOf(value: string, max = 0xffff): number {
  return /^\d+$/.test(value) && Number(value) <= max ? Number(value) : -1
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
