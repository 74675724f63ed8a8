import { isDeepStrictEqual } from 'node:util'
import { type Clock, pause } from '../base/clock.ts'
import { eachState } from '../base/each-state.ts'
import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { EnrolledSource } from '../identity/enrolled.ts'
import { encodeJwtBundles, type HeldJwtBundles, type JwtBundles } from '../identity/jwt-bundles.ts'
import { randomJitter, retryDelayMs } from '../identity/renewal.ts'
import { areSameBundles } from '../identity/same-bundles.ts'
import type { TrustBundles } from '../identity/source.ts'
import type { Channel } from './channel.ts'
import { watchBundles } from './exchange.ts'
import { encodeBundles } from './svid-encoding.ts'

/** What is believed, at once and after each change, for those who follow us; changes that come together are told as one. */
export async function* tellBundles(
  believed: {
    readonly bundles: () => TrustBundles
    readonly jwtBundles: () => JwtBundles
    readonly onChange: (listener: () => void) => () => void
  },
  signal: AbortSignal,
): AsyncGenerator<Encoded, void> {
  const { bundles, jwtBundles, onChange } = believed
  const current = () => ({ bundles: encodeBundles(bundles()), jwtBundles: encodeJwtBundles(jwtBundles()) })
  yield* eachState({ current, onChange, isSame: isDeepStrictEqual }, signal)
}

type Encoded = Readonly<Record<'bundles' | 'jwtBundles', Record<string, Uint8Array>>>

/** Keeps the bundles of an identity as its server announces them, until the result ends that; a broken stream is opened again. */
export function followBundles(parts: {
  readonly channel: Channel
  readonly source: EnrolledSource
  /** Gets what the server tells of JWT-SVIDs. */
  readonly keys?: Pick<HeldJwtBundles, 'set'>
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
  { channel, source, keys, clock, log }: Parameters<typeof followBundles>[0],
  signal: AbortSignal,
): Promise<void> {
  for (let failures = 0; !signal.aborted; failures++) {
    try {
      for await (const { bundles, jwtBundles } of watchBundles(channel, signal)) {
        failures = 0
        if (!areSameBundles(source.current().bundles, bundles)) await source.updateBundles(bundles)
        keys?.set(jwtBundles)
      }
    } catch (error) {
      if (signal.aborted) return
      log.debug('the bundles are not followed', { error: toNsmError(error).message })
    }
    await pause(clock, retryDelayMs(Math.min(failures + 1, failuresMax), randomJitter()), signal)
  }
}

/** Ours: beyond it the pause is the longest. */
const failuresMax = 10
