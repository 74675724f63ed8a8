import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import { isLoopback } from './address-kind.ts'
import type { ListenAddress } from './listener.ts'
import { keyFromText, nameFromKey } from './name.ts'
import { isOwnAddress } from './own-addresses.ts'
import { random16 } from './random-id.ts'
import { type UpstreamAddress, UpstreamSocket } from './upstream-socket.ts'
import { classInternet, recordType, write16 } from './wire.ts'

/** Keeps this resolver from becoming its own upstream. */
export interface LoopGuard {
  /** True for an address that is this resolver itself. */
  isOurs(target: UpstreamAddress): boolean
  /** Sends each upstream of this machine a made-up name that no one else would ask us for. */
  probe(targets: readonly UpstreamAddress[]): void
  /** Tells whether a name we are asked for is such a name; its upstream is then reported. */
  saw(nameKey: string): boolean
  close(): void
}

/** What a guard is made from. */
export interface LoopGuardSettings {
  readonly clock: Clock
  readonly log: Log
  readonly listening: ListenAddress
  readonly onLoop: (target: UpstreamAddress) => void
}

/** Ours: a probe that has not come back by then never will. */
const probeLifeMs = 2_000

/** Makes a guard. Only upstreams on loopback are probed: only they can lead back, and nobody else's server is bothered. */
export function createLoopGuard(settings: LoopGuardSettings): LoopGuard {
  const { clock, log, listening } = settings
  const probes = new Map<string, { readonly target: UpstreamAddress; readonly end: () => void }>()
  const isOurs = ({ address, port }: UpstreamAddress) =>
    (port === 53 && isOwnAddress(address)) || (address === listening.address && port === listening.port)
  return {
    isOurs,
    probe(targets) {
      for (const target of targets.filter(({ address }) => isLoopback(address))) {
        const { nameKey, message } = probeMessage()
        const socket = new UpstreamSocket<string>(target, deaf, clock.monotonicMs())
        socket.send(message, nameKey, clock.monotonicMs())
        const end = () => {
          cancel()
          probes.delete(nameKey)
          socket.close()
        }
        const cancel = clock.after(probeLifeMs, end)
        probes.set(nameKey, { target, end })
      }
    },
    saw(nameKey) {
      const probe = probes.get(nameKey)
      if (!probe) return false
      probe.end()
      log.warn('an upstream leads back to this resolver and is left out', { address: probe.target.address })
      settings.onLoop(probe.target)
      return true
    },
    close() {
      for (const probe of [...probes.values()]) probe.end()
    },
  }
}

/** What the upstream says does not matter, only whether the name comes back. */
const deaf = { onMessage: () => true, onUnreachable: () => {} }

/** A question for the HINFO record of a random name of two labels. */
function probeMessage(): { readonly nameKey: string; readonly message: Buffer } {
  const label = () => random16().toString(16).padStart(4, '0') + random16().toString(16).padStart(4, '0')
  const nameKey = keyFromText(`${label()}.${label()}`)
  const message = Buffer.alloc(12 + nameKey.length + 4)
  write16(message, 2, 0x0100)
  write16(message, 4, 1)
  message.set(nameFromKey(nameKey), 12)
  write16(message, 12 + nameKey.length, recordType.hinfo)
  write16(message, 14 + nameKey.length, classInternet)
  return { nameKey, message }
}
