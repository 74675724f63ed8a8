import { createPublicKey } from 'node:crypto'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { Authority } from './ca.ts'
import { createFixedSource } from './fixed-source.ts'
import { generateKey } from './keys.ts'
import { startRenewal } from './renewal.ts'
import type { IdentitySource, IdentityState } from './source.ts'
import { stateFromIssued } from './svid.ts'

/** The identity of the program that holds the authority: issued in process, a new key at each half life. */
export function createAuthoritySource(settings: {
  readonly authority: Authority
  readonly spiffeId: string
  readonly ttlMs: number
  readonly clock: Clock
  readonly log: Log
}): IdentitySource {
  const first = issueOwn(settings)
  const held = createFixedSource(first, settings.clock)
  const renewal = startRenewal({
    ...settings,
    svid: first.svid,
    renew: async () => {
      const next = issueOwn(settings)
      held.set(next)
      return next.svid
    },
  })
  return {
    current: held.current,
    onChange: held.onChange,
    async close() {
      await renewal.close()
      await held.close()
    },
  }
}

function issueOwn(settings: {
  readonly authority: Authority
  readonly spiffeId: string
  readonly ttlMs: number
  readonly clock: Clock
}): IdentityState {
  const { spiffeId, ttlMs } = settings
  const privateKey = generateKey()
  const issued = settings.authority.issueForKey({ publicKey: createPublicKey(privateKey), spiffeId, ttlMs })
  return stateFromIssued(issued, privateKey, settings.clock.wallMs())
}
