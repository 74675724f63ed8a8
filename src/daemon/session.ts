import { addressText } from '../base/address-text.ts'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { EnrolledSource } from '../identity/enrolled.ts'
import { holdJwtBundles } from '../identity/jwt-bundles.ts'
import type { IdentitySource } from '../identity/source.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import { type AuthorityJwt, createAuthorityJwt } from '../nsm/authority-jwt.ts'
import { followBundles } from '../nsm/bundle-stream.ts'
import { type Channel, openChannel, type Target } from '../nsm/channel.ts'
import { createNsmClient, type NsmClient } from '../nsm/client.ts'
import type { TokenSource } from '../nsm/workload-jwt.ts'
import { createRegistryClient, type RegistryClient } from '../registry/client.ts'

/** One identity and one manager: everything that is asked of that manager goes through here. */
export interface Session {
  readonly channel: Channel
  /** To the server that renews the identity: the manager itself, unless another one was named. */
  readonly home: Channel
  readonly client: NsmClient
  readonly registry: RegistryClient
  readonly source: TokenSource
  /** Host name or IP address of the manager. */
  readonly address: string
  /** `tcp://host:port`. */
  readonly url: string
  /** Set when the session is with that domain's servers, whose registry knows bare names. */
  readonly domain?: string
  close(): Promise<void>
}

/** Opens a session; it dials at the first call. The session closes the source. */
export function openSession(parts: {
  readonly target: Target
  readonly source: IdentitySource
  readonly clock: Clock
  readonly log: Log
  /** The same source when a server gave it, and that server: what it believes is followed. */
  readonly enrolled?: { readonly source: EnrolledSource; readonly server: Target }
  /** The domain of the wanted service: who was named as manager may be of that domain instead of ours. */
  readonly domain?: string | undefined
  /** The longest life of the tokens it signs. */
  readonly tokenLifetimeMs?: number | undefined
}): Session {
  const { target, source, enrolled, domain, clock, log, tokenLifetimeMs } = parts
  const { trustDomain } = parseSpiffeId(source.current().svid.spiffeId)
  const isOf = (wanted: string | undefined) => (spiffeId: string) => parseSpiffeId(spiffeId).trustDomain === wanted
  const isOwn = isOf(trustDomain)
  const expect = (spiffeId: string) => isOwn(spiffeId) || isOf(domain?.toLowerCase())(spiffeId)
  const channel = openChannel({ target, source, clock, expect, tokenLifetimeMs })
  const isHome = enrolled === undefined || urlOf(enrolled.server) === urlOf(target)
  const home = isHome ? channel : openChannel({ target: enrolled.server, source, clock, expect: isOwn })
  const keys = holdJwtBundles()
  const following = enrolled && followBundles({ channel: home, source: enrolled.source, keys, clock, log })
  return {
    channel,
    home,
    client: createNsmClient(channel),
    registry: createRegistryClient(channel),
    source: enrolled ? withTokens(source, createAuthorityJwt({ channel: home, keys, clock })) : source,
    address: target.address,
    url: urlOf(target),
    async close() {
      await following?.close()
      channel.close()
      home.close()
      await source.close()
    },
  }
}

/** The identity, with the tokens that its server signs. */
function withTokens({ current, onChange, close }: IdentitySource, jwt: AuthorityJwt): TokenSource {
  return {
    ...{ current, onChange, close },
    get jwt() {
      return jwt.isSigning ? jwt : undefined
    },
  }
}

/** `tcp://host:port`, with brackets around an IPv6 address. */
export function urlOf(target: Target): string {
  return `tcp://${addressText(target)}`
}
