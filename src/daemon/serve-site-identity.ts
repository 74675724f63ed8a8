import { join } from 'node:path'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { type EnrolledSource, enrol, openEnrolled } from '../identity/enrolled.ts'
import { formatJoinString, type JoinString } from '../identity/join-string.ts'
import { type HeldJwtBundles, holdJwtBundles } from '../identity/jwt-bundles.ts'
import type { IdentitySource } from '../identity/source.ts'
import { followBundles } from '../nsm/bundle-stream.ts'
import { type Channel, openChannel } from '../nsm/channel.ts'
import { exchangeJoinToken, renewIdentity } from '../nsm/exchange.ts'
import type { Around } from './serve-home.ts'
import { isSiteOf, sitePrefixOfIds } from './serve-ids.ts'

/** What a further site asks with and whom. */
export interface SiteIdentity {
  readonly source: IdentitySource
  /** What the first site tells of JWT-SVIDs. */
  readonly keys: HeldJwtBundles
  /** To the first site. */
  readonly channel: Channel
}

/** Ours: the exchange of a join token, two round trips and a signature. */
const exchangeTimeoutMs = 15_000

/**
 * The stored identity, or one for the join string's token. Throws `IDENTITY` when it is expired or not a site's,
 * `UNREACHABLE` when a new one is needed and the first site is away.
 */
export async function openSiteIdentity(
  parts: Around & { readonly stateDir: string; readonly join: JoinString; readonly clock: Clock },
): Promise<SiteIdentity> {
  const { join: first, clock, undo } = parts
  let channel: Channel | undefined
  const renew = async (csr: Uint8Array, signal: AbortSignal) => {
    if (!channel) throw new NsmError('UNREACHABLE', 'the channel to the first site is not open', 'try again')
    return renewIdentity(channel, { csr, trustDomain: first.trustDomain }, signal)
  }
  const statePath = join(parts.stateDir, 'site-identity.json')
  const open = () => openEnrolled({ ...parts, statePath, renew })
  const source = (await usable(await open(), first)) ?? (await enrolNow(parts, statePath, open))
  undo.push(() => source.close())
  const { spiffeId } = source.current().svid
  if (!spiffeId.startsWith(sitePrefixOfIds(first.trustDomain))) throw notASite(spiffeId)
  const target = { address: first.address, port: first.port }
  const opened = openChannel({ target, source, clock, expect: isSiteOf(first.trustDomain) })
  channel = opened
  const keys = holdJwtBundles()
  const following = followBundles({ channel: opened, source, keys, clock, log: parts.log })
  undo.push(async () => {
    await following.close()
    opened.close()
  })
  return { source, keys, channel }
}

/** A stored identity serves unless it is expired, or a token is there for one of another server. */
async function usable(source: EnrolledSource | undefined, first: JoinString): Promise<EnrolledSource | undefined> {
  const isTheirs = first.token === undefined || source?.isFrom(first)
  if (source && isTheirs && isCurrent(source)) return source
  await source?.close()
  return undefined
}

function isCurrent(source: EnrolledSource): boolean {
  try {
    source.current()
    return true
  } catch {
    return false
  }
}

async function enrolNow(
  { join: first, clock }: { readonly join: JoinString; readonly clock: Clock },
  statePath: string,
  open: () => Promise<EnrolledSource | undefined>,
): Promise<EnrolledSource> {
  const { token, ...server } = first
  if (token === undefined) {
    throw new NsmError(
      'IDENTITY',
      'the identity of this site is expired',
      'run `nsm invite --endpoint` on the first site and `nsm serve --join FILE` here',
    )
  }
  await enrol({
    statePath,
    serverUrl: formatJoinString(server),
    clock,
    exchange: (csr, signal) => exchangeJoinToken({ join: first, csr, clock }, signal),
    expect: first,
    signal: AbortSignal.timeout(exchangeTimeoutMs),
  })
  const source = await open()
  if (!source) throw new NsmError('BUG', 'the new identity is not stored', 'report this')
  return source
}

function notASite(spiffeId: string): NsmError {
  return new NsmError(
    'IDENTITY',
    `${spiffeId} was invited as a member, not as a site`,
    'run `nsm invite --endpoint` on the first site',
  )
}
