import type { Clock } from '../base/clock.ts'
import { untilAborted } from '../base/until-aborted.ts'
import type { IdentitySource } from '../identity/source.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import type { Channel } from './channel.ts'
import { bundleRefreshSeconds } from './exchange-server.ts'
import { IdentityService } from './generated/identity_pb.js'
import { SiteService } from './generated/site_pb.js'
import { type MethodBinding, openUnary, serverStream, unary } from './grpc.ts'
import { RateLimit } from './rate-limit.ts'
import { encodeBundles } from './svid-encoding.ts'

/**
 * The identity service of a site without an authority: tokens and renewals go to the authority over the site's own
 * channel. A renewal carries the member's certificate and its hop token for this site, by which the authority sees that
 * the member did ask here.
 */
export function relayedIdentityService(parts: {
  readonly source: IdentitySource
  readonly channel: Channel
  readonly clock: Clock
}): MethodBinding[] {
  const { source, channel, clock } = parts
  const { getConfiguration, exchange, renew, watchBundles } = IdentityService.method
  const attempts = new RateLimit()
  return [
    openUnary(getConfiguration, async (_request, call) => {
      attempts.count(call.address, clock.monotonicMs())
      const { message } = await channel.unary(getConfiguration, {}, { signal: call.signal })
      const { svid, bundles } = source.current()
      const { trustDomain } = parseSpiffeId(svid.spiffeId)
      const { issuers } = message
      return { trustDomain, issuers, x509Authorities: [...(bundles.get(trustDomain) ?? [])], bundleRefreshSeconds }
    }),
    openUnary(exchange, async (request, call) => {
      attempts.count(call.address, clock.monotonicMs())
      const { signal } = call
      return (await channel.unary(exchange, request, { signal })).message
    }),
    unary(renew, async ({ csr }, { peer, signal }) => {
      const chain = new Uint8Array(Buffer.concat([peer.certificate, ...(peer.intermediates ?? [])]))
      const request = { csr, chain, token: peer.token ?? '' }
      return (await channel.unary(SiteService.method.renewMember, request, { signal })).message
    }),
    serverStream(watchBundles, async function* (_request, call) {
      yield { bundles: encodeBundles(source.current().bundles) }
      await untilAborted(call.signal)
    }),
  ]
}
