import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { fetchPinnedBundles } from '../identity/first-contact.ts'
import type { JoinString } from '../identity/join-string.ts'
import { decodeJwtBundles, type JwtBundles } from '../identity/jwt-bundles.ts'
import type { IssuedSvid, TrustBundles } from '../identity/source.ts'
import { type Channel, openAnonymousChannel } from './channel.ts'
import { type GetConfigurationResponse, IdentityService } from './generated/identity_pb.js'
import { decodeBundles, decodeIssued } from './svid-encoding.ts'
import { isTurnedAway, isUnreachable, whileBusy } from './while-busy.ts'

/** Whom to ask, and the CSR: all that is sent of the key. */
interface Wanted {
  readonly join: JoinString
  readonly csr: Uint8Array
  readonly clock: Clock
}

/**
 * Turns the token of a join string into an identity. The server is believed because its root is the pinned one. Throws
 * `IDENTITY` (wrong pin, used or expired token), `UNREACHABLE`.
 */
export async function exchangeJoinToken(wanted: Wanted, signal: AbortSignal): Promise<IssuedSvid> {
  const { token } = wanted.join
  if (token === undefined) throw noToken()
  return exchangeCredential({ ...wanted, credential: { case: 'joinToken', value: token } }, signal)
}

/**
 * Turns an ID token of an issuer that the server believes into an identity; the join string says where the server is and
 * how to know it. Throws `IDENTITY`, `REFUSED` (no rule admits it, or it was used), `UNREACHABLE`.
 */
export async function exchangeIdToken(
  wanted: Wanted & { readonly idToken: string },
  signal: AbortSignal,
): Promise<IssuedSvid> {
  return exchangeCredential({ ...wanted, credential: { case: 'idToken', value: wanted.idToken } }, signal)
}

/** What a server says of itself to everybody, the issuers that it believes among it; throws `IDENTITY`, `UNREACHABLE`. */
export async function fetchConfiguration(
  { join, clock }: Omit<Wanted, 'csr'>,
  signal: AbortSignal,
): Promise<GetConfigurationResponse> {
  const bundles = await fetchPinnedBundles({ ...join, clock }, signal)
  const channel = openAnonymousChannel({ target: join, bundles, clock })
  try {
    return (await channel.unary(IdentityService.method.getConfiguration, {}, { signal })).message
  } finally {
    channel.close()
  }
}

async function exchangeCredential(
  wanted: Wanted & { readonly credential: Credential },
  signal: AbortSignal,
): Promise<IssuedSvid> {
  const { join, clock } = wanted
  const meet = () => fetchPinnedBundles({ ...join, clock }, signal)
  const bundles = await whileBusy(meet, { clock, signal, isBusy: isTurnedAway })
  // A server takes a credential twice from the same key, as after a lost answer.
  return whileBusy(() => exchangeOnce({ ...wanted, bundles }, signal), { clock, signal, isBusy: isUnreachable })
}

async function exchangeOnce(
  {
    join,
    credential,
    csr,
    clock,
    bundles,
  }: Wanted & { readonly credential: Credential; readonly bundles: TrustBundles },
  signal: AbortSignal,
): Promise<IssuedSvid> {
  const channel = openAnonymousChannel({ target: join, bundles, clock })
  try {
    const { message } = await channel.unary(IdentityService.method.exchange, { credential, csr }, { signal })
    return decodeIssued(message, join.trustDomain)
  } finally {
    channel.close()
  }
}

interface Credential {
  readonly case: 'joinToken' | 'idToken'
  readonly value: string
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
export async function* watchBundles(
  channel: Channel,
  signal?: AbortSignal,
): AsyncGenerator<{ readonly bundles: TrustBundles; readonly jwtBundles: JwtBundles }, void> {
  const stream = channel.stream(IdentityService.method.watchBundles, {}, signal ? { signal } : {})
  for await (const { bundles, jwtBundles } of stream) {
    yield { bundles: decodeBundles(bundles), jwtBundles: decodeJwtBundles(jwtBundles) }
  }
}

function noToken(): NsmError {
  return new NsmError(
    'IDENTITY',
    'the join string carries no token, and no ID token was found here',
    'ask for a new one: `nsm invite` on the server, or give --token-file',
  )
}
