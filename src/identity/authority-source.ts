import { createPublicKey } from 'node:crypto'
import type { Audit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { Authority } from './ca.ts'
import type { Federation } from './federation.ts'
import { createFixedSource } from './fixed-source.ts'
import { generateKey } from './keys.ts'
import { startRenewal } from './renewal.ts'
import type { IdentitySource, IdentityState } from './source.ts'
import { isOfNewestRoot, stateFromIssued } from './svid.ts'

interface AuthoritySourceSettings {
  readonly authority: Authority
  /** Whom to believe besides the own domain. */
  readonly federation?: Believed
  readonly spiffeId: string
  readonly ttlMs: number
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
}

/**
 * The identity of the program that holds the authority: issued in process, a new key at each half life and when the root that
 * signs is another one. It believes the own roots and those of federated domains.
 */
export function createAuthoritySource(settings: AuthoritySourceSettings): IdentitySource {
  const { authority, federation, clock } = settings
  const first = issueOwn(settings)
  const held = createFixedSource(first, clock)
  const renew = () => {
    const next = issueOwn(settings)
    held.set(next)
    return next.svid
  }
  const renewal = startRenewal({ ...settings, svid: first.svid, renew: async () => renew() })
  const believe = () => {
    const next = { svid: held.current().svid, bundles: believedBy(settings) }
    if (isOfNewestRoot(next, clock.wallMs())) held.set(next)
    else renew()
  }
  const stops = [authority.onChange(believe), federation?.onChange(believe)]
  return {
    current: held.current,
    onChange: held.onChange,
    async close() {
      for (const stop of stops) stop?.()
      await renewal.close()
      await held.close()
    },
  }
}

/** The bundles of other domains. */
type Believed = Pick<Federation, 'bundles' | 'jwtBundles' | 'onChange'>

/** What an authority gives along with its certificates: the bundles that its server believes, not its own alone. */
export type BelievingAuthority = Pick<
  Authority,
  'trustDomain' | 'bundles' | 'jwtBundles' | 'issueForKey' | 'issueJwt' | 'onChange'
>

/** The authority of a server with this identity. */
export function believingAuthority(
  authority: Authority,
  source: Pick<IdentitySource, 'current' | 'onChange'>,
  federation?: Pick<Believed, 'jwtBundles'>,
): BelievingAuthority {
  const { trustDomain } = authority
  return {
    trustDomain,
    get bundles() {
      return source.current().bundles
    },
    get jwtBundles() {
      return new Map([...(federation?.jwtBundles() ?? []), ...authority.jwtBundles])
    },
    issueJwt: authority.issueJwt,
    issueForKey: (wanted) => ({ ...authority.issueForKey(wanted), bundles: source.current().bundles }),
    onChange: source.onChange,
  }
}

function issueOwn(settings: AuthoritySourceSettings): IdentityState {
  const { authority, spiffeId, ttlMs, clock } = settings
  const privateKey = generateKey()
  const issued = authority.issueForKey({ publicKey: createPublicKey(privateKey), spiffeId, ttlMs })
  return stateFromIssued({ ...issued, bundles: believedBy(settings) }, privateKey, clock.wallMs())
}

function believedBy({ authority, federation }: Pick<AuthoritySourceSettings, 'authority' | 'federation'>) {
  return new Map([...(federation?.bundles() ?? []), ...authority.bundles])
}
