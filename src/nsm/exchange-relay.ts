import type { Clock } from '../base/clock.ts'
import { eachState } from '../base/each-state.ts'
import type { HeldJwtBundles } from '../identity/jwt-bundles.ts'
import type { IdentitySource } from '../identity/source.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import { tellBundles } from './bundle-stream.ts'
import type { Channel } from './channel.ts'
import { bundleRefreshSeconds } from './exchange-server.ts'
import { IdentityService } from './generated/identity_pb.js'
import { SiteService } from './generated/site_pb.js'
import { type MethodBinding, openUnary, serverStream, unary } from './grpc.ts'
import type { PeerContext } from './peer.ts'
import { ExchangeRate } from './rate-limit.ts'
import { concatenate } from './svid-encoding.ts'

/** What a site relays with. */
export interface RelayParts {
  readonly source: IdentitySource
  /** What the authority tells. */
  readonly keys: Pick<HeldJwtBundles, 'current' | 'onChange'>
  readonly channel: Channel
  readonly clock: Clock
}

/**
 * The identity service of a site without an authority: tokens and renewals go to the authority over the site's own
 * channel. A renewal carries the member's certificate and its hop token for this site, by which the authority sees that
 * the member did ask here.
 */
export function relayedIdentityService(parts: RelayParts): MethodBinding[] {
  const { source, channel, clock } = parts
  const { getConfiguration, exchange, renew, watchBundles, fetchJwtSvid } = IdentityService.method
  const rate = new ExchangeRate()
  return [
    openUnary(getConfiguration, async (_request, { address, signal }) => {
      const ask = () => channel.unary(getConfiguration, {}, { signal })
      const { message } = await rate.run(ask, { address, clock })
      const { svid, bundles } = source.current()
      const { trustDomain } = parseSpiffeId(svid.spiffeId)
      const { issuers } = message
      return { trustDomain, issuers, x509Authorities: [...(bundles.get(trustDomain) ?? [])], bundleRefreshSeconds }
    }),
    openUnary(exchange, async (request, { address, signal }) => {
      const ask = () => channel.unary(exchange, request, { signal })
      return (await rate.run(ask, { address, clock })).message
    }),
    unary(renew, async ({ csr }, { peer, signal }) => {
      const request = { csr, ...shownBy(peer) }
      return (await channel.unary(SiteService.method.renewMember, request, { signal })).message
    }),
    unary(fetchJwtSvid, async ({ audience }, { peer, signal }) => {
      const request = { audience, ...shownBy(peer) }
      return (await channel.unary(SiteService.method.fetchMemberJwtSvid, request, { signal })).message
    }),
    serverStream(watchBundles, (_request, call) => tellOnceKnown(parts, call.signal)),
  ]
}

/** By which the authority sees that a member did ask here. */
function shownBy({ certificate, intermediates = [], token = '' }: PeerContext) {
  return { chain: concatenate([certificate, ...intermediates]), token }
}

/** No keys would mean that the authority signs no tokens, and applications would not ask again: nothing is told before it told. */
async function* tellOnceKnown({ source, keys }: Pick<RelayParts, 'source' | 'keys'>, signal: AbortSignal) {
  const known = { current: () => keys.current() !== undefined, onChange: keys.onChange, isSame: Object.is }
  for await (const isKnown of eachState(known, signal)) {
    if (isKnown) return yield* tellBundles(believedBy({ source, keys }), signal)
  }
}

function believedBy({ source, keys }: Pick<RelayParts, 'source' | 'keys'>) {
  return {
    bundles: () => source.current().bundles,
    jwtBundles: () => keys.current() ?? new Map(),
    onChange(listener: () => void) {
      const stops = [source.onChange(listener), keys.onChange(listener)]
      return () => {
        for (const stop of stops) stop()
      }
    },
  }
}
