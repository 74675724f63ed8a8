import type { Clock } from '../base/clock.ts'
import { type ErrorCode, NsmError } from '../base/errors.ts'
import { createTurns } from '../base/turns.ts'
import { keyToBase64, keyToHex } from './key-text.ts'
import { errno, errnoOf } from './sys/errno.ts'
import type { RestartableTunnel } from './tunnels.ts'
import { getLines, type HandshakeMoment, handshakeMoments } from './uapi-get.ts'
import { applySet, type DeviceSettings } from './uapi-set.ts'
import { generatePrivateKey, type PeerSettings } from './wireguard/engine.ts'

/** What a control socket asks of one interface. */
export interface UapiDevice {
  /** The lines that answer `get=1`. */
  get(): Promise<string[]>
  /** Does what the lines behind `set=1` say; 0 or the number of an error. */
  set(lines: readonly string[]): Promise<number>
}

/** What of a tunnel a control socket changes. */
export type ControlledTunnel = Pick<
  RestartableTunnel,
  'listenPort' | 'setPeer' | 'removePeer' | 'stats' | 'restart' | 'setMark'
>

/** Keeps a tunnel as its settings say: each change is the difference to what was before, and one goes after the other. */
export class DeviceControl implements UapiDevice {
  readonly #tunnel: ControlledTunnel
  readonly #handshakeMoment: HandshakeMoment
  readonly #turns = createTurns()
  #settings: DeviceSettings

  /** `settings` are those the tunnel was opened with. */
  constructor(tunnel: ControlledTunnel, settings: DeviceSettings, clock: Pick<Clock, 'wallMs'>) {
    this.#tunnel = tunnel
    this.#settings = settings
    this.#handshakeMoment = handshakeMoments(clock)
  }

  /** Settings in force; the port is the open one. */
  get settings(): DeviceSettings {
    return { ...this.#settings, listenPort: this.#tunnel.listenPort }
  }

  async get(): Promise<string[]> {
    const stats = await this.#tunnel.stats()
    return getLines(this.settings, stats, this.#handshakeMoment)
  }

  set(lines: readonly string[]): Promise<number> {
    return this.#turns.run('set', async () => {
      try {
        await this.#followRoaming()
        const after = applySet(lines, this.#settings)
        return typeof after === 'number' ? after : await this.#become(after)
      } catch (error) {
        return numberOf(error)
      }
    })
  }

  /** A peer that moved stays where it is heard, unless the request says where it is; also when it says what was set before. */
  async #followRoaming(): Promise<void> {
    const heard = new Map((await this.#tunnel.stats()).peers.map(({ publicKey, endpoint }) => [publicKey, endpoint]))
    const peers = this.#settings.peers.map((peer) => {
      const endpoint = heard.get(keyToBase64(peer.publicKey)) ?? peer.endpoint
      return endpoint ? { ...peer, endpoint } : peer
    })
    this.#settings = { ...this.#settings, peers }
  }

  async #become(after: DeviceSettings): Promise<number> {
    const before = this.#settings
    if (before.fwmark !== after.fwmark) await this.#tunnel.setMark(after.fwmark)
    const isNew = !sameBytes(before.privateKey, after.privateKey) || before.listenPort !== after.listenPort
    if (isNew) await this.#restart(before, after)
    const inForce = isNew || !before.privateKey ? [] : before.peers
    this.#settings = { ...after, peers: [] }
    const gone = inForce.filter((peer) => needsRemoval(peer, find(after.peers, peer)))
    for (const { publicKey } of gone) await this.#tunnel.removePeer(publicKey)
    return this.#setPeers(
      after,
      inForce.filter((peer) => !gone.includes(peer)),
    )
  }

  /** A port that is taken leaves the mark as it was, too. */
  async #restart(before: DeviceSettings, { privateKey, listenPort, fwmark }: DeviceSettings): Promise<void> {
    try {
      await this.#tunnel.restart({ privateKey: privateKey ?? generatePrivateKey(), listenPort })
    } catch (error) {
      if (fwmark !== before.fwmark) await this.#tunnel.setMark(before.fwmark)
      throw error
    }
  }

  /** A peer that cannot be is left out, and the others are set all the same. A device without a key has peers on paper. */
  async #setPeers(after: DeviceSettings, inForce: readonly PeerSettings[]): Promise<number> {
    let failure = 0
    const peers: PeerSettings[] = []
    for (const peer of after.peers) {
      try {
        const isSet = after.privateKey === undefined || samePeer(find(inForce, peer), peer)
        if (!isSet) await this.#tunnel.setPeer(peer)
        peers.push(peer)
      } catch (error) {
        failure = numberOf(error)
      }
    }
    this.#settings = { ...after, peers }
    return failure
  }
}

function find(peers: readonly PeerSettings[], { publicKey }: PeerSettings): PeerSettings | undefined {
  return peers.find((peer) => sameBytes(peer.publicKey, publicKey))
}

/** The engine keeps a peer's keys for its whole life, and where it is; only one that was removed and added again has no endpoint. */
function needsRemoval(before: PeerSettings, after: PeerSettings | undefined): boolean {
  return !after || !sameBytes(before.presharedKey, after.presharedKey) || (!!before.endpoint && !after.endpoint)
}

function samePeer(before: PeerSettings | undefined, after: PeerSettings): boolean {
  return before !== undefined && JSON.stringify(textOf(before)) === JSON.stringify(textOf(after))
}

function textOf({ publicKey, keepaliveSeconds, endpoint, allowedPrefixes }: PeerSettings) {
  return [keyToHex(publicKey), keepaliveSeconds, endpoint, allowedPrefixes]
}

function sameBytes(a: Uint8Array | undefined, b: Uint8Array | undefined): boolean {
  return a === undefined || b === undefined ? a === b : Buffer.compare(a, b) === 0
}

/** What the asking program is told. The engine's refusals come from another thread and have no number of the system's. */
function numberOf(error: unknown): number {
  if (!(error instanceof NsmError)) throw error
  return errnoOf(error) ?? numbers[error.code] ?? errno.EIO
}

const numbers: Readonly<Partial<Record<ErrorCode, number>>> = {
  USAGE: errno.EINVAL,
  PERMISSION: errno.EACCES,
  CONFLICT: errno.ENOSPC,
  REFUSED: errno.ENOSPC,
}
