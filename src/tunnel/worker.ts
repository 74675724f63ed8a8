import { once } from 'node:events'
import { flushCompileCache } from 'node:module'
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { NumberedRequest, WorkerBoot, WorkerMessage, WorkerStart } from './control.ts'
import { createPump, type Pump } from './pump.ts'
import { Requests } from './requests.ts'
import { createSleepClock, type SleepClock } from './sleep-clock.ts'
import type { StackNews } from './stack-messages.ts'
import { StackSockets } from './stack-sockets.ts'
import { giveMemoryBack } from './sys/heap.ts'
import { libc } from './sys/libc.ts'
import { ThreadBoot } from './thread-boot.ts'
import { loadPlatform } from './tun/open.ts'
import { createEngine } from './wireguard/engine.ts'
import { selfTest, testedWideCipher } from './wireguard/self-test.ts'
import { compileWideCipher } from './wireguard/wide-cipher.ts'

/* The packet worker's thread: one per tunnel. It never returns to its event loop while it lives; it waits in poll, for
 * packets, for the next timer and for the eventfd that says a request is in the port. */

/** Ours: 32 bursts are at most a few milliseconds. */
const turnsPerLook = 32
/** Ours: the thread's start leaves the most, which takes 5 ms to give back; 0.05 ms where there is nothing. */
const trimEveryMs = 1_000

// No top-level await: the one-file executable loads this as a script.
void run(workerData)

/** Everything that needs no tunnel is done before the first message says which one it is. */
async function run(boot: WorkerBoot): Promise<void> {
  const say = (message: WorkerMessage) => boot.port.postMessage(message)
  const state = new ThreadBoot(boot.bootWords)
  try {
    const first = once(boot.port, 'message')
    const platform = await loadPlatform()
    libc()
    state.tellLoaded()
    const wideCipher = chooseCipher(boot)
    const [message] = await first
    const setup: WorkerStart | NumberedRequest = message
    if (state.isDismissed || 'request' in setup) return
    const { kind, privateKey, mtuBytes, heard } = setup
    const engine = createEngine(boot.module, { kind, privateKey, mtuBytes, wideCipher })
    privateKey.fill(0)
    const socket = new platform.LinuxUdpSocket(setup.udp, engine)
    const clock = createSleepClock(platform.sleptMs)
    const device = setup.tun && new platform.LinuxTunDevice(setup.tun, engine)
    const pump = createPump({
      engine,
      socket,
      clock,
      ...(device ? { device } : {}),
      onHeard: () => void (heard && Atomics.add(heard, 0, 1)),
      onLocal: (packet) => say({ kind: 'local', packet }),
      onHandshakes: () => requests.answerHandshakes(),
      onEvents: (events) => sockets.tell(events),
    })
    const sockets = new StackSockets({
      ...{ engine, pump, clock },
      say: (socket, news) =>
        boot.port.postMessage({ kind: 'stack', socket, news } satisfies WorkerMessage, buffersOf(news)),
    })
    const wide = { wideCipher: wideCipher ? 1 : 0 }
    const counters = () => ({ ...socket.counters(), ...device?.counters(), ...wide })
    const requests = new Requests({ engine, pump, clock, say, sockets, counters })
    const fds = setup.tun ? [setup.tun.fd, setup.udp.fd] : [setup.udp.fd]
    say({ kind: 'ready', cipher: wideCipher ? 'wide' : 'plain' })
    // This thread never gets to the end at which Node would write it, nor does a process that is killed.
    flushCompileCache()
    loop({ pump, requests, clock, port: boot.port, waiter: new platform.PollWaiter(fds, boot.wakeFd) })
  } catch (error) {
    say({ kind: 'failed', error: toNsmError(error).toData() })
  } finally {
    state.tellLoaded()
    boot.port.close()
  }
}

/** What crosses without a copy. */
function buffersOf(news: StackNews): ArrayBuffer[] {
  return 'bytes' in news ? [news.bytes.buffer] : []
}

/** The wide cipher where it was or is found right; throws `BUG` when the engine's own is wrong. */
function chooseCipher({ module, cipher }: WorkerBoot): WebAssembly.Module | undefined {
  if (cipher === 'wide') return compileWideCipher(module)
  if (cipher === 'plain') return undefined
  if (!selfTest({ module })) throw wrongCipher()
  return testedWideCipher(module)
}

function wrongCipher(): NsmError {
  const next = 'report it with the output of `nsm version --json` and the kind of processor'
  return new NsmError('BUG', 'the cipher gives wrong answers on this machine; no tunnel is opened', next)
}

interface LoopParts {
  readonly pump: Pump
  readonly requests: Requests
  readonly clock: SleepClock
  readonly port: MessagePort
  readonly waiter: { wait(timeoutMs: number): boolean }
}

/** A loaded loop never waits, so it looks for requests every few turns. */
function loop({ pump, requests, clock, port, waiter }: LoopParts): void {
  let trimAtMs = clock.monotonicMs() + trimEveryMs
  for (let turns = 0; !requests.closed; turns++) {
    const busy = pump.turn()
    const untilTickMs = pump.tick()
    if (busy && turns % turnsPerLook !== 0) continue
    const nowMs = clock.monotonicMs()
    if (nowMs > trimAtMs) {
      giveMemoryBack()
      trimAtMs = nowMs + trimEveryMs
    }
    const isAsked = waiter.wait(busy ? 0 : untilTickMs)
    clock.look()
    if (!isAsked) continue
    // First what came before: a handshake of a peer that a request is about to make is nobody's yet, and crosses none of ours.
    pump.turn()
    for (let found = receiveMessageOnPort(port); found; found = receiveMessageOnPort(port)) {
      requests.handle(found.message)
    }
  }
}
