import { randomBytes } from 'node:crypto'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { Authority } from '../identity/ca.ts'
import { formatJoinString } from '../identity/join-string.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import type { JoinTokens } from '../nsm/join-tokens.ts'
import type { ReachedAt } from './serve-address.ts'
import { sitePrefixOfIds } from './serve-ids.ts'

/** A fresh single-use join string. */
export interface InviteResult extends OpenInvite {
  readonly spiffeId: string
  /** Milliseconds since the Unix epoch. */
  readonly expiresMs: number
}

/** A join string without a token: it admits nobody by itself, and does not end. */
export interface OpenInvite {
  readonly apiVersion: 'nsm/invite/v1'
  readonly joinString: string
}

/** What is asked for: an ID of its own (`spiffe://domain/path` or `/path`), a made-up one by default. */
export interface Invitation {
  readonly id?: string
  readonly ttlMs: number
  /** True: for a further server of the network, which may offer an endpoint; its ID lies below `/site/`. */
  readonly endpoint?: boolean
}

/** Makes join strings. */
export interface Inviter {
  /** Throws `USAGE` for an ID that is none or of another trust domain. */
  invite(wanted: Invitation): InviteResult
}

/** Ours [identity 2.7]: an invitation is carried over at once; a day is for the slowest. */
const inviteLifeMaxMs = 86_400_000

/** An inviter for one authority and the address at which its server is reached. */
export function createInviter(parts: {
  readonly authority: Pick<Authority, 'trustDomain' | 'rootSpkiPin'>
  readonly tokens: Pick<JoinTokens, 'create'>
  readonly reachedAt: ReachedAt
  readonly clock: Clock
}): Inviter {
  const { authority, tokens, reachedAt, clock } = parts
  const { trustDomain } = authority
  return {
    invite({ id, ttlMs, endpoint }) {
      if (!(ttlMs > 0 && ttlMs <= inviteLifeMaxMs)) {
        throw new NsmError('USAGE', 'an invitation lives from 1 s to 24 h', 'give a --ttl such as 15m')
      }
      const spiffeId = endpoint ? siteId(id, trustDomain) : memberId(id, trustDomain)
      const expiresMs = clock.wallMs() + ttlMs
      const token = tokens.create({ spiffeId, expiresMs })
      const joinString = formatJoinString({ ...reachedAt(), trustDomain, pin: authority.rootSpkiPin, token })
      return { apiVersion: 'nsm/invite/v1', joinString, spiffeId, expiresMs }
    },
  }
}

function memberId(id: string | undefined, trustDomain: string): string {
  if (id === undefined) return `spiffe://${trustDomain}/member/${randomBytes(8).toString('hex')}`
  const text = id.startsWith('spiffe://') ? id : `spiffe://${trustDomain}${id.startsWith('/') ? '' : '/'}${id}`
  const path = pathInDomain(text, trustDomain)
  if (path === undefined || path === '' || path === '/server' || path === '/site' || path.startsWith('/site/')) {
    throw new NsmError(
      'USAGE',
      `"${id.slice(0, 128)}" cannot be the ID of a member of ${trustDomain}`,
      'write a path such as /laptop/alice; letters, digits, ".", "-", "_"',
    )
  }
  return text
}

/** The name of a site is one label, since its endpoint is named after it. */
function siteId(id: string | undefined, trustDomain: string): string {
  const start = sitePrefixOfIds(trustDomain)
  if (id === undefined) return `${start}${randomBytes(siteIdBytes).toString('hex')}`
  const name = id.startsWith(start) ? id.slice(start.length) : id
  if (/^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$/.test(name)) return `${start}${name}`
  throw new NsmError(
    'USAGE',
    `"${id.slice(0, 128)}" cannot be the name of a site`,
    'write a name such as berlin-2; at most 32 of a-z, 0-9 and "-"',
  )
}

/** Ours: enough that no two sites of one network meet. */
const siteIdBytes = 4

function pathInDomain(text: string, trustDomain: string): string | undefined {
  try {
    const parsed = parseSpiffeId(text)
    return parsed.trustDomain === trustDomain ? parsed.path : undefined
  } catch {
    return undefined
  }
}
