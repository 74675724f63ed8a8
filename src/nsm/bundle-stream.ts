import { randomInt } from 'node:crypto'
import { type Clock, sleep } from '../base/clock.ts'
import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { EnrolledSource } from '../identity/enrolled.ts'
import { isSame } from '../identity/federation.ts'
import { retryDelayMs } from '../identity/renewal.ts'
import type { TrustBundles } from '../identity/source.ts'
import type { Channel } from './channel.ts'
import { watchBundles } from './exchange.ts'
import { encodeBundles } from './svid-encoding.ts'

/** What is believed, at once and after each change, for those who follow us; changes that come together are told as one. */
export async function* tellBundles(
  believed: { readonly bundles: () => TrustBundles; readonly onChange: (listener: () => void) => () => void },
  signal: AbortSignal,
): AsyncGenerator<{ readonly bundles: Record<string, Uint8Array> }, void> {
  let wake = Promise.withResolvers<void>()
  const stopListening = believed.onChange(() => wake.resolve())
  const onAbort = () => wake.resolve()
  signal.addEventListener('abort', onAbort, { once: true })
  let told: TrustBundles | undefined
  try {
    while (!signal.aborted) {
      const bundles = believed.bundles()
      if (!told || !isSame(told, bundles)) yield { bundles: encodeBundles(bundles) }
      told = bundles
      await wake.promise
      wake = Promise.withResolvers<void>()
    }
  } finally {
    stopListening()
    signal.removeEventListener('abort', onAbort)
  }
}

/** Keeps the bundles of an identity as its server announces them, until the result ends that; a broken stream is opened again. */
export function followBundles(parts: {
  readonly channel: Channel
  readonly source: EnrolledSource
  readonly clock: Clock
  readonly log: Log
}): { close(): Promise<void> } {
  const stop = new AbortController()
  const ended = follow(parts, stop.signal)
  return {
    async close() {
      stop.abort()
      await ended
    },
  }
}

async function follow(
  { channel, source, clock, log }: Parameters<typeof followBundles>[0],
  signal: AbortSignal,
): Promise<void> {
  for (let failures = 0; !signal.aborted; failures++) {
    try {
      for await (const bundles of watchBundles(channel, signal)) {
        failures = 0
        if (!isSame(source.current().bundles, bundles)) await source.updateBundles(bundles)
      }
    } catch (error) {
      if (signal.aborted) return
      log.debug('the bundles are not followed', { error: toNsmError(error).message })
    }
    await sleep(
      clock,
      retryDelayMs(Math.min(failures + 1, failuresMax), randomInt(jitterSteps) / jitterSteps),
      signal,
    ).catch(() => {})
  }
}

const jitterSteps = 10_000
/** Ours: beyond it the pause is the longest. */
const failuresMax = 10
