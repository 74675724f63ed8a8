import { createListeners } from '../base/listeners.ts'
import { formatBundle, type JwtKey, parseBundle } from './bundle-document.ts'

/** The keys that JWT-SVIDs of each trust domain are signed with; never merged: a key speaks for its own domain only. */
export type JwtBundles = ReadonlyMap<string, readonly JwtKey[]>

/** What a server told of its keys, for those who check tokens. */
export interface HeldJwtBundles {
  /** Undefined until the server told for the first time. */
  current(): JwtBundles | undefined
  set(bundles: JwtBundles): void
  /** Calls the listener after each change; the result ends that. */
  onChange(listener: () => void): () => void
}

/** Holds what is set, in memory alone. */
export function holdJwtBundles(): HeldJwtBundles {
  const listeners = createListeners()
  let held: JwtBundles | undefined
  return {
    current: () => held,
    set(bundles) {
      if (held && areSameJwtBundles(held, bundles)) return
      held = bundles
      listeners.tell()
    },
    onChange: listeners.add,
  }
}

/** Trust domains with their keys as SPIFFE's JSON. */
export function encodeJwtBundles(bundles: JwtBundles): Record<string, Uint8Array> {
  return Object.fromEntries([...bundles].map(([domain, jwtKeys]) => [domain, Buffer.from(formatKeys(jwtKeys))]))
}

/** Reads what `encodeJwtBundles` wrote; throws `IDENTITY` (`BUNDLE_INVALID`). */
export function decodeJwtBundles(bundles: Readonly<Record<string, Uint8Array>>): JwtBundles {
  return new Map(
    Object.entries(bundles).map(([domain, text]) => [domain, parseBundle(Buffer.from(text).toString()).jwtKeys]),
  )
}

/** A plain JWK set, as the Workload API gives it: without `use`, by which libraries for tokens would leave the keys out. */
export function plainJwks(keys: readonly JwtKey[]): string {
  return JSON.stringify({ keys: keys.map(({ kid, jwk }) => ({ ...jwk, kid })) })
}

/** True when both hold the same keys of the same domains. */
export function areSameJwtBundles(a: JwtBundles, b: JwtBundles): boolean {
  return a.size === b.size && [...a].every(([domain, keys]) => isSameKeys(keys, b.get(domain)))
}

function isSameKeys(a: readonly JwtKey[], b: readonly JwtKey[] | undefined): boolean {
  return b !== undefined && formatKeys(a) === formatKeys(b)
}

function formatKeys(jwtKeys: readonly JwtKey[]): string {
  return formatBundle({ roots: [], jwtKeys, sequence: undefined, refreshHintMs: undefined })
}
