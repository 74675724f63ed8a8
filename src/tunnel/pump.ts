import type { Clock } from '../base/clock.ts'
import type { Merging, TunDevice } from './tun/device.ts'
import type { UdpSocket } from './udp.ts'
import { descriptorWords, type SocketEvent, type WireGuardEngine } from './wireguard/engine.ts'
import { word } from './words.ts'

/* Outbound: interface -read-> deviceReads -> engine.fromDevice -> sends -sendmmsg-> network.
 * Inbound:  network -recvmmsg-> received -> engine.fromNetwork -> deviceWrites -write-> interface   (member)
 *                                                              -> sends -sendmmsg-> network         (hub)
 *                                                              -> locals -copy-> onLocal            (hub)
 *                                                              -> the engine's stack -> onEvents    (netstack, hub)
 * One turn runs each direction once to completion: no queue, no await, no copy; JavaScript never looks at a packet.
 * Every buffer is the engine's. Inputs are its own until `result.more` is false; outputs are borrowed until the next
 * call into the engine, so each call's outputs leave before the next call. `onLocal` gets a copy it may keep. */

/** What a pump moves packets between. */
export interface PumpParts {
  readonly engine: WireGuardEngine
  readonly socket: UdpSocket
  /** The member's interface; a hub has none. */
  readonly device?: TunDevice
  readonly clock: Clock
  /** Raw IP packets to the hub's own services; a copy. */
  readonly onLocal?: (packet: Uint8Array) => void
  /** Called after a burst from the network that had packets for the device. */
  readonly onHeard?: () => void
  /** Called after a call that completed handshakes. */
  readonly onHandshakes?: () => void
  /** What became of sockets of the engine's stack; called when outputs have left, so it may call the engine. */
  readonly onEvents?: (events: readonly SocketEvent[]) => void
}

/** The packet loop's body. */
export interface Pump {
  /** One burst each way; false when nothing waited. Throws `LOST` when the interface is gone. */
  turn(): boolean
  /** Runs the timers when they are due, and gives the milliseconds until they are again. */
  tick(): number
  /** Hands out what the last call into the engine produced; call it after every call made from outside. */
  deliver(): void
}

/** Joins engine, interface and socket. */
export function createPump(parts: PumpParts): Pump {
  const { engine, device, clock } = parts
  let merging: Merging | undefined
  let nextTickMs = 0
  let stackAtMs = Number.POSITIVE_INFINITY
  const events: SocketEvent[] = []
  let telling = false
  const deliver = () => {
    deliverResult(parts, events)
    const { waitMs } = engine.result
    stackAtMs = waitMs === Number.POSITIVE_INFINITY ? waitMs : clock.monotonicMs() + Math.max(waitMs, 1)
    // What is told calls the engine, and so comes back here.
    if (telling) return
    telling = true
    try {
      while (events.length > 0) parts.onEvents?.(events.splice(0))
    } finally {
      telling = false
    }
  }
  return {
    deliver,
    turn() {
      if (device && device.merging !== merging) {
        merging = device.merging
        engine.setMerging(merging)
      }
      const outbound = device?.receive(engine.deviceReads) ?? 0
      if (outbound > 0) {
        engine.fromDevice(outbound, clock.monotonicMs())
        deliver()
      }
      const inbound = parts.socket.receive(engine.received)
      if (inbound > 0) {
        engine.fromNetwork(inbound, clock.monotonicMs())
        if (engine.result.deviceWrites > 0) parts.onHeard?.()
        deliver()
      }
      return outbound + inbound > 0
    },
    tick() {
      const nowMs = clock.monotonicMs()
      if (nowMs >= nextTickMs - earlyMs) {
        nextTickMs = nowMs + tickMs
        engine.tick(nowMs)
        deliver()
      } else if (nowMs >= stackAtMs) {
        engine.drain(nowMs)
        deliver()
      }
      return Math.max(Math.min(nextTickMs, stackAtMs) - nowMs, 0)
    },
  }
}

function deliverResult(
  { engine, socket, device, clock, onLocal, onHandshakes }: PumpParts,
  events: SocketEvent[],
): void {
  const { result } = engine
  for (;;) {
    if (result.sends > 0) socket.send(engine.sends, result.sends)
    if (result.deviceWrites > 0) device?.send(engine.deviceWrites, result.deviceWrites)
    if (result.locals > 0 && onLocal) copyLocals(engine, onLocal)
    if (result.handshakes > 0) onHandshakes?.()
    if (result.events > 0) events.push(...engine.stack.socketEvents(result.events))
    if (!result.more) return
    engine.drain(clock.monotonicMs())
  }
}

function copyLocals({ u8, u32, locals, result }: WireGuardEngine, onLocal: (packet: Uint8Array) => void): void {
  for (let i = 0; i < result.locals; i++) {
    const at = (locals.offset >> 2) + i * descriptorWords
    const start = u32[at] ?? 0
    onLocal(u8.slice(start, start + (u32[at + word.bytes] ?? 0)))
  }
}

/** Ours: the engine asks for 100 to 250 ms; four wake-ups a second cost under 0.1 % of a core. */
const tickMs = 250
/** Ours: a loop that is awake this shortly before runs them at once, and is not woken for them again. */
const earlyMs = 50
