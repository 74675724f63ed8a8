import { once } from 'node:events'
import { flushCompileCache } from 'node:module'
import { type MessagePort, receiveMessageOnPort, workerData } from 'node:worker_threads'
import { systemClock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import type { NumberedRequest, WorkerBoot, WorkerMessage, WorkerStart } from './control.ts'
import { createPump, type Pump } from './pump.ts'
import { Requests } from './requests.ts'
import { loadPlatform } from './tun/open.ts'
import { createEngine } from './wireguard/engine.ts'
import { selfTest } from './wireguard/self-test.ts'

/* The packet worker's thread: one per tunnel. It never returns to its event loop while it lives; it waits in poll, for
 * packets, for the next timer and for the eventfd that says a request is in the port. */

/** Ours: 32 bursts are at most a few milliseconds. */
const turnsPerLook = 32

await run(workerData)

/** Everything that needs no tunnel is done before the first message says which one it is. */
async function run(boot: WorkerBoot): Promise<void> {
  const say = (message: WorkerMessage) => boot.port.postMessage(message)
  try {
    const first = once(boot.port, 'message')
    const platform = await loadPlatform()
    if (boot.selfTest && !selfTest(boot.module)) throw wrongCipher()
    const [message] = await first
    const setup: WorkerStart | NumberedRequest = message
    if ('request' in setup) return
    const engine = createEngine(boot.module, { kind: setup.kind, privateKey: setup.privateKey })
    setup.privateKey.fill(0)
    const socket = new platform.LinuxUdpSocket(setup.udp, engine)
    const device = setup.tun && new platform.LinuxTunDevice(setup.tun, engine)
    const pump = createPump({
      engine,
      socket,
      clock: systemClock,
      ...(device ? { device } : {}),
      onLocal: (packet) => say({ kind: 'local', packet }),
      onHandshakes: () => requests.answerHandshakes(),
    })
    const counters = () => ({ ...socket.counters(), ...device?.counters() })
    const requests = new Requests({ engine, pump, clock: systemClock, say, counters })
    const fds = setup.tun ? [setup.tun.fd, setup.udp.fd] : [setup.udp.fd]
    say({ kind: 'ready' })
    // This thread never gets to the end at which Node would write it, nor does a process that is killed.
    flushCompileCache()
    loop({ pump, requests, port: boot.port, waiter: new platform.PollWaiter(fds, boot.wakeFd) })
  } catch (error) {
    say({ kind: 'failed', error: toNsmError(error).toData() })
  } finally {
    boot.port.close()
  }
}

function wrongCipher(): NsmError {
  const next = 'report it with the output of `nsm version --json` and the kind of processor'
  return new NsmError('BUG', 'the cipher gives wrong answers on this machine; no tunnel is opened', next)
}

interface LoopParts {
  readonly pump: Pump
  readonly requests: Requests
  readonly port: MessagePort
  readonly waiter: { wait(timeoutMs: number): boolean }
}

/** A loaded loop never waits, so it looks for requests every few turns. */
function loop({ pump, requests, port, waiter }: LoopParts): void {
  for (let turns = 0; !requests.closed; turns++) {
    const busy = pump.turn()
    const untilTickMs = pump.tick()
    if (busy && turns % turnsPerLook !== 0) continue
    if (!waiter.wait(busy ? 0 : untilTickMs)) continue
    for (let found = receiveMessageOnPort(port); found; found = receiveMessageOnPort(port)) {
      requests.handle(found.message)
    }
  }
}
