import type { Clock } from '../base/clock.ts'
import type { IdentitySource } from '../identity/source.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import { tellBundles } from './bundle-stream.ts'
import type { Channel } from './channel.ts'
import { bundleRefreshSeconds } from './exchange-server.ts'
import { IdentityService } from './generated/identity_pb.js'
import { SiteService } from './generated/site_pb.js'
import { type MethodBinding, openUnary, serverStream, unary } from './grpc.ts'
import { ExchangeRate } from './rate-limit.ts'

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
      const chain = new Uint8Array(Buffer.concat([peer.certificate, ...(peer.intermediates ?? [])]))
      const request = { csr, chain, token: peer.token ?? '' }
      return (await channel.unary(SiteService.method.renewMember, request, { signal })).message
    }),
    serverStream(watchBundles, (_request, call) =>
      tellBundles({ bundles: () => source.current().bundles, onChange: source.onChange }, call.signal),
    ),
  ]
}
