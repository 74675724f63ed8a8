import type { JSONWebKeySet } from 'jose'
import type { Clock } from '../base/clock.ts'
import { checkedEndpoint, type FetchJson } from './oidc-fetch.ts'
import { oidcRefusal } from './oidc-refusal.ts'

/** The public keys of one issuer. */
export interface IssuerKeys {
  /** A set that holds the key `kid` if the issuer has it; throws `UNREACHABLE` when it cannot be known. */
  keySet(kid: string | undefined): Promise<JSONWebKeySet>
}

/** Ours: a fresh set is asked for after this. */
const freshMs = 600_000
/** Ours: an unknown key causes one look at the issuer in this time, so that made-up tokens cannot flood it. */
const coolDownMs = 30_000
/** Ours: while the issuer is away, a key that was known is believed so long. */
const staleMaxMs = 86_400_000

interface Cached {
  readonly keys: JSONWebKeySet
  readonly atMs: number
}

/** The keys of an issuer, found by its discovery document [OIDC Discovery 4] and kept; one look at a time. */
export function createIssuerKeys(parts: {
  readonly url: string
  readonly fetchJson: FetchJson
  readonly clock: Clock
}): IssuerKeys {
  const { clock } = parts
  let cached: Cached | undefined
  let triedAtMs = Number.NEGATIVE_INFINITY
  let running: Promise<JSONWebKeySet> | undefined
  const refetch = () => {
    triedAtMs = clock.monotonicMs()
    running ??= load(parts)
      .then((keys) => {
        cached = { keys, atMs: clock.monotonicMs() }
        return keys
      })
      .finally(() => {
        running = undefined
      })
    return running
  }
  return {
    async keySet(kid) {
      const nowMs = clock.monotonicMs()
      const known = cached !== undefined && holds(cached.keys, kid)
      if (cached && known && nowMs - cached.atMs < freshMs) return cached.keys
      const isCooling = nowMs - triedAtMs < coolDownMs
      if (isCooling && !running && cached) return cached.keys
      try {
        return await refetch()
      } catch (error) {
        if (cached && known && nowMs - cached.atMs < staleMaxMs) return cached.keys
        throw oidcRefusal('ISSUER_UNREACHABLE', `the keys of ${parts.url} cannot be fetched by the server`, error)
      }
    },
  }
}

function holds({ keys }: JSONWebKeySet, kid: string | undefined): boolean {
  return kid === undefined ? keys.length > 0 : keys.some((key) => key.kid === kid)
}

async function load({
  url,
  fetchJson,
}: {
  readonly url: string
  readonly fetchJson: FetchJson
}): Promise<JSONWebKeySet> {
  const found = await fetchJson(`${url.replace(/\/$/, '')}/.well-known/openid-configuration`)
  const { issuer, jwks_uri: keysUrl } = recordOf(found)
  if (issuer !== url) throw oidcRefusal('ISSUER_UNREACHABLE', `${url} calls itself another issuer`)
  const { keys } = recordOf(await fetchJson(checkedEndpoint(keysUrl, url)))
  if (!Array.isArray(keys)) throw oidcRefusal('ISSUER_UNREACHABLE', `${url} has no set of keys`)
  return { keys: keys.filter((key) => typeof key === 'object' && key !== null) }
}

/** The fields of a JSON object; none of anything else. */
export function recordOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? Object.fromEntries(Object.entries(value)) : {}
}
