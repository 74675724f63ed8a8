import { create, type JsonObject } from '@bufbuild/protobuf'
import { timestampMs } from '@bufbuild/protobuf/wkt'
import { type Clock, sleep } from '../base/clock.ts'
import { eachState } from '../base/each-state.ts'
import { type ErrorCode, NsmError, toNsmError } from '../base/errors.ts'
import { isJsonObject } from '../base/json.ts'
import { withSignal } from '../base/with-signal.ts'
import { areSameJwtBundles, type HeldJwtBundles, type JwtBundles, plainJwks } from '../identity/jwt-bundles.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import type { Channel } from './channel.ts'
import { type FetchJwtSvidResponse, IdentityService } from './generated/identity_pb.js'
import {
  JWTBundlesResponseSchema,
  JWTSVIDResponseSchema,
  ValidateJWTSVIDResponseSchema,
} from './generated/workload_pb.js'
import type { JwtSource } from './workload-jwt.ts'

/** What JWT-SVIDs of our own authority are got with. */
export interface AuthorityJwtParts {
  /** To the server that renews the identity. */
  readonly channel: Pick<Channel, 'unary' | 'ownId'>
  /** What that server tells. */
  readonly keys: HeldJwtBundles
  readonly clock: Clock
}

/** JWT-SVIDs from the server that gave the identity. */
export interface AuthorityJwt extends JwtSource {
  /** False once the server has said that it signs none: one that is older than this program. */
  readonly isSigning: boolean
}

/** Ours: signing takes the server a millisecond. */
const askTimeoutMs = 10_000
/** Ours: the server tells its keys as soon as it is reached. */
const keysTimeoutMs = 10_000
/** Ours: tokens kept, 1 KiB each; beyond it the oldest is forgotten. */
const tokensMax = 256
/** Ours: what a token must be good for to be handed out while the server is away or busy. */
const leftMinMs = 30_000

/** Tokens are kept until half their life, as SPIRE's agent does; keys are checked against in this process. */
export function createAuthorityJwt(parts: AuthorityJwtParts): AuthorityJwt {
  const { channel, keys, clock } = parts
  const tokens = new Map<string, FetchJwtSvidResponse>()
  const asked = new Map<string, Promise<FetchJwtSvidResponse>>()
  const ownKeys = () => keys.current()?.get(parseSpiffeId(channel.ownId() ?? '').trustDomain)
  const isSigning = () => keys.current() === undefined || (ownKeys()?.length ?? 0) > 0

  const known = async (signal: AbortSignal): Promise<JwtBundles> => {
    const held = keys.current() ?? (await firstOf(parts, signal))
    if (isSigning()) return held
    throw new NsmError('REFUSED', 'the server signs no JWT-SVIDs', 'have its nsm updated')
  }
  /** One that is good for a while yet. */
  const goodOf = (key: string) => {
    const kept = tokens.get(key)
    return kept && endOf(kept) - clock.wallMs() > leftMinMs ? kept : undefined
  }
  const ask = async (key: string, audience: readonly string[]) => {
    const method = IdentityService.method.fetchJwtSvid
    const settings = { timeoutMs: askTimeoutMs, wait: goodOf(key) === undefined }
    try {
      const { message } = await channel.unary(method, { audience: [...audience] }, settings)
      tokens.delete(key)
      tokens.set(key, message)
      const [oldest] = tokens.keys()
      if (tokens.size > tokensMax && oldest !== undefined) tokens.delete(oldest)
      return message
    } catch (error) {
      const { code, message, next } = toNsmError(error)
      const denied = codes[code]
      if (denied) tokens.delete(key)
      const good = goodOf(key)
      if (good) return good
      throw new NsmError(denied ?? code, message, next, { cause: error })
    }
  }
  const current = (key: string, audience: readonly string[]) => {
    const kept = tokens.get(key)
    if (kept && clock.wallMs() < (startOf(kept) + endOf(kept)) / 2) return Promise.resolve(kept)
    const asking = asked.get(key) ?? ask(key, audience).finally(() => asked.delete(key))
    asked.set(key, asking)
    return asking
  }
  return {
    get isSigning() {
      return isSigning()
    },
    async fetch({ audience, spiffeId: wanted }, signal) {
      await known(signal)
      const spiffeId = channel.ownId()
      if (wanted !== '' && wanted !== spiffeId) throw notOurs(wanted)
      const sorted = [...new Set(audience)].sort()
      const { svid } = await withSignal(current(JSON.stringify([spiffeId, sorted]), sorted), signal)
      return create(JWTSVIDResponseSchema, { svids: [{ spiffeId: spiffeId ?? '', svid }] })
    },
    async validate({ audience, svid }, signal) {
      const bundles = await known(signal)
      // Loaded with the first token that somebody shows.
      const { verifyJwtSvid } = await import('../identity/jwt-svid.ts')
      const expected = { audience, bundles, nowMs: clock.wallMs() }
      const { spiffeId, claims } = await verifyJwtSvid(svid, expected).catch(invalid)
      return create(ValidateJWTSVIDResponseSchema, { spiffeId, ...(isJson(claims) && { claims }) })
    },
    async *bundles(signal) {
      await known(signal)
      const states = { current: () => keys.current() ?? new Map(), onChange: keys.onChange, isSame: areSameJwtBundles }
      for await (const held of eachState(states, signal)) {
        yield create(JWTBundlesResponseSchema, { bundles: byDomainId(held) })
      }
    },
  }
}

/** The keys once the server has told them; throws `UNREACHABLE` when it does not in time. */
async function firstOf({ keys, clock }: AuthorityJwtParts, signal: AbortSignal): Promise<JwtBundles> {
  const done = new AbortController()
  const told = new Promise<JwtBundles>((resolve) => {
    const stop = keys.onChange(() => resolve(keys.current() ?? new Map()))
    done.signal.addEventListener('abort', stop, { once: true })
  })
  const late = sleep(clock, keysTimeoutMs, done.signal).then(() => {
    throw new NsmError('UNREACHABLE', 'the server did not tell its keys yet', 'try again')
  })
  try {
    return await withSignal(Promise.race([told, late]), signal)
  } finally {
    done.abort()
    late.catch(() => {})
  }
}

/** Whoever may have no token has a right missing: an application asks again, with pauses. [SPIFFE Workload API 6.2.1] */
const codes: Readonly<Partial<Record<ErrorCode, ErrorCode>>> = { REFUSED: 'PERMISSION', IDENTITY: 'PERMISSION' }

/** [SPIFFE Workload API 6.2.3] */
function invalid(error: unknown): never {
  const { message, next } = toNsmError(error)
  throw new NsmError('USAGE', message, next)
}

function notOurs(spiffeId: string): NsmError {
  return new NsmError('PERMISSION', `${spiffeId.slice(0, 80)} is not the identity that is served`, 'ask for that one')
}

/** What was JSON text is JSON. */
function isJson(value: unknown): value is JsonObject {
  return isJsonObject(value)
}

function byDomainId(bundles: JwtBundles): Record<string, Uint8Array> {
  return Object.fromEntries([...bundles].map(([domain, keys]) => [`spiffe://${domain}`, Buffer.from(plainJwks(keys))]))
}

function startOf({ issued }: FetchJwtSvidResponse): number {
  return issued ? timestampMs(issued) : 0
}

function endOf({ expires }: FetchJwtSvidResponse): number {
  return expires ? timestampMs(expires) : 0
}
