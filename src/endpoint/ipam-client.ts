import { type Clock, pause } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { formatPrefix, type Prefix, parsePrefix } from '../base/ip.ts'
import type { Log } from '../base/log.ts'
import { createTurns } from '../base/turns.ts'
import type { Channel } from '../nsm/channel.ts'
import { createEventQueue, type EventQueue } from '../nsm/event-queue.ts'
import { IPAM, Type } from '../nsm/generated/ipam_pb.js'

/** What a site holds of the network's prefixes, kept up over one stream for as long as it runs. */
export interface HeldPrefixes {
  /** One more part of this service prefix; throws `CONFLICT` when none is left, `UNREACHABLE` while the authority is. */
  take(whole: Prefix): Promise<Prefix>
  /** Resolves when a prefix that is in use was given to somebody else. */
  readonly lost: Promise<NsmError>
  /** Ends the stream: the prefixes rest for this site. */
  close(): Promise<void>
}

/** Ours: pauses between tries while the authority does not answer. */
const pauseFirstMs = 200
const pauseMaxMs = 5_000
/** Ours: a prefix is given in a moment; the rest is the way there. */
const answerTimeoutMs = 10_000

/**
 * Holds the prefixes over NSM's prefix service: opens the stream, asks for each held one by name, and does that again
 * whenever the stream breaks. `held` are the prefixes of the last run; `wholes` all prefixes of the service.
 */
export function holdPrefixes(parts: {
  readonly channel: Channel
  readonly wholes: readonly Prefix[]
  readonly held: readonly Prefix[]
  readonly clock: Clock
  readonly log: Log
}): HeldPrefixes {
  const { wholes, clock, log } = parts
  const closing = new AbortController()
  const held = new Set(parts.held.map(formatPrefix))
  let tellLost: (error: NsmError) => void = () => {}
  const lost = new Promise<NsmError>((resolve) => {
    tellLost = resolve
  })
  let stream: AllocationStream | undefined
  const turns = createTurns()
  /** One question at a time: the answers carry no number. */
  const inTurn = <T>(work: () => Promise<T>): Promise<T> => turns.run('stream', work)
  const attach = async () => {
    const opened = openStream(parts.channel)
    try {
      for (const text of held) {
        const given = await opened.ask({ prefix: text, excludePrefixes: [] })
        if (given !== text) tellLost(taken(text, given))
      }
    } catch (error) {
      opened.end()
      throw error
    }
    stream = opened
    return opened
  }
  const keep = async () => {
    let pauseMs = pauseFirstMs
    while (!closing.signal.aborted) {
      try {
        const opened = stream ?? (await inTurn(attach))
        pauseMs = pauseFirstMs
        await opened.ended
      } catch (error) {
        // Said once for each time it goes away.
        const level = pauseMs === pauseFirstMs ? 'warn' : 'debug'
        if (!closing.signal.aborted)
          log[level]('the prefix service does not answer', { error: toNsmError(error).message })
      }
      stream = undefined
      await pause(clock, pauseMs, closing.signal)
      pauseMs = Math.min(pauseMs * 2, pauseMaxMs)
    }
  }
  const kept = keep()
  return {
    lost,
    take: (whole) =>
      inTurn(async () => {
        const others = wholes.filter((other) => other !== whole).map(formatPrefix)
        const opened = stream ?? (await attach())
        const given = await opened.ask({ prefix: '', excludePrefixes: others })
        held.add(given)
        return parsePrefix(given)
      }),
    async close() {
      closing.abort()
      stream?.end()
      await kept
    },
  }
}

interface AllocationStream {
  ask(request: { readonly prefix: string; readonly excludePrefixes: string[] }): Promise<string>
  readonly ended: Promise<void>
  end(): void
}

interface Waiting {
  resolve(prefix: string): void
  reject(error: unknown): void
}

function openStream(channel: Channel): AllocationStream {
  const over = new AbortController()
  const requests: EventQueue<{ type: Type; prefix: string; excludePrefixes: string[] }> = createEventQueue([], {
    signal: over.signal,
    onEnd() {},
  })
  const answers = channel.duplex(IPAM.method.managePrefixes, requests.events, { signal: over.signal })
  const waiting: Waiting[] = []
  let broken: NsmError | undefined
  const end = (reason: NsmError) => over.abort(reason)
  const read = async () => {
    try {
      for await (const { prefix } of answers) waiting.shift()?.resolve(prefix)
      broken = closed()
    } catch (error) {
      broken = toNsmError(error)
    }
    for (const one of waiting.splice(0)) one.reject(broken)
  }
  return {
    ended: read(),
    end: () => end(closed()),
    ask(request) {
      if (broken) return Promise.reject(broken)
      const answer = new Promise<string>((resolve, reject) => void waiting.push({ resolve, reject }))
      const cancel = channel.clock.after(answerTimeoutMs, () => end(late()))
      requests.push({ type: Type.ALLOCATE, ...request })
      return answer.finally(cancel)
    },
  }
}

function closed(): NsmError {
  return new NsmError('UNREACHABLE', 'the stream of prefixes is closed', 'try again')
}

function late(): NsmError {
  return new NsmError('UNREACHABLE', 'the prefix service did not answer', 'check that the first site runs')
}

function taken(text: string, given: string): NsmError {
  return new NsmError(
    'LOST',
    `the prefix ${text} of this site was given to another one, this site gets ${given}`,
    'start nsm serve again: members get new addresses',
  )
}
