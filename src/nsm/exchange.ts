import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { fetchPinnedBundles } from '../identity/first-contact.ts'
import type { JoinString } from '../identity/join-string.ts'
import type { IssuedSvid, TrustBundles } from '../identity/source.ts'
import { type Channel, openAnonymousChannel } from './channel.ts'
import { IdentityService } from './generated/identity_pb.js'
import { decodeBundles, decodeIssued } from './svid-encoding.ts'

/**
 * Turns the token of a join string into an identity. The server is believed because its root is the pinned one; the CSR is
 * all that is sent of the key. Throws `IDENTITY` (wrong pin, used or expired token), `UNREACHABLE`.
 */
export async function exchangeJoinToken(
  wanted: { readonly join: JoinString; readonly csr: Uint8Array; readonly clock: Clock },
  signal: AbortSignal,
): Promise<IssuedSvid> {
  const { join, csr, clock } = wanted
  if (join.token === undefined) throw noToken()
  const bundles = await fetchPinnedBundles({ ...join, clock }, signal)
  const channel = openAnonymousChannel({ target: join, bundles, clock })
  try {
    const request = { credential: { case: 'joinToken' as const, value: join.token }, csr }
    const { message } = await channel.unary(IdentityService.method.exchange, request, { signal })
    const issued = decodeIssued(message, join.trustDomain)
    return { ...issued, bundles: new Map([...issued.bundles, ...bundles]) }
  } finally {
    channel.close()
  }
}

/** Renews the identity the channel uses; the CSR carries a new key. Throws `IDENTITY`, `UNREACHABLE`. */
export async function renewIdentity(
  channel: Channel,
  wanted: { readonly csr: Uint8Array; readonly trustDomain: string },
  signal?: AbortSignal,
): Promise<IssuedSvid> {
  const settings = signal ? { signal } : {}
  const { message } = await channel.unary(IdentityService.method.renew, { csr: wanted.csr }, settings)
  return decodeIssued(message, wanted.trustDomain)
}

/** The trust bundles of the server, at once and after each change; throws when the stream breaks. */
export async function* watchBundles(channel: Channel, signal?: AbortSignal): AsyncGenerator<TrustBundles, void> {
  const stream = channel.stream(IdentityService.method.watchBundles, {}, signal ? { signal } : {})
  for await (const { bundles } of stream) yield decodeBundles(bundles)
}

function noToken(): NsmError {
  return new NsmError('IDENTITY', 'the join string carries no token', 'ask for a new one: `nsm invite` on the server')
}
