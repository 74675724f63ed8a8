import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { random16 } from './random-id.ts'
import { askOverTcp } from './tcp-ask.ts'
import { targetText, type UpstreamAddress, UpstreamSocket } from './upstream-socket.ts'
import { flag, read16, write16 } from './wire.ts'

/** One question to one server. */
export interface ServerQuestion {
  readonly target: UpstreamAddress
  /** The message; its id is set here. */
  readonly message: Buffer
  /** True to ask over TCP at once; over UDP a truncated reply is fetched over TCP too. */
  readonly overTcp: boolean
  readonly clock: Clock
}

/** Ours: UDP is asked again after this, three times in all; the server's own deadline is 4.5 s. */
const resendMs = 2_000
const sendsMax = 3
/** Ours: connecting and answering over TCP. */
const tcpMs = 5_000

/** Asks one server; throws `UNREACHABLE` when it does not answer, and the reason of the signal. */
export async function askServer(
  question: ServerQuestion,
  signal: AbortSignal,
): Promise<{ readonly reply: Buffer; readonly overTcp: boolean }> {
  const overUdp = question.overTcp ? undefined : await askUdp(question, signal)
  if (overUdp && (read16(overUdp, 2) & flag.truncated) === 0) return { reply: overUdp, overTcp: false }
  return { reply: await askTcp(question, signal), overTcp: true }
}

function askUdp({ target, message, clock }: ServerQuestion, signal: AbortSignal): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const end = (settle: () => void) => {
      cancel()
      socket.close()
      settle()
    }
    const socket = new UpstreamSocket<undefined>(
      target,
      {
        onMessage(reply) {
          const isReply = (read16(reply, 2) & flag.response) !== 0
          if (isReply) end(() => resolve(reply))
          return isReply
        },
        onUnreachable: () => end(() => reject(silent(target))),
      },
      clock.monotonicMs(),
    )
    let cancel = () => {}
    const send = (left: number) => {
      if (left === 0 || !socket.send(Buffer.from(message), undefined, clock.monotonicMs())) {
        end(() => reject(silent(target)))
        return
      }
      cancel = clock.after(resendMs, () => send(left - 1))
    }
    signal.addEventListener('abort', () => end(() => reject(signal.reason)), { once: true })
    send(sendsMax)
  })
}

function askTcp({ target, message, clock }: ServerQuestion, signal: AbortSignal): Promise<Buffer> {
  const asked = Buffer.from(message)
  write16(asked, 0, random16())
  return new Promise((resolve, reject) => {
    const cancel = clock.after(tcpMs, () => fail(silent(target)))
    const stop = askOverTcp(target, asked, (reply) => {
      cancel()
      if (reply) resolve(reply)
      else reject(silent(target))
    })
    const fail = (why: unknown) => {
      cancel()
      stop()
      reject(why)
    }
    signal.addEventListener('abort', () => fail(signal.reason), { once: true })
  })
}

function silent(target: UpstreamAddress): NsmError {
  return new NsmError('UNREACHABLE', `${targetText(target)} does not answer`, 'nsm dns status shows who should')
}
