import type { TrustBundles } from './source.ts'

/** True when both believe the same roots of the same domains. */
export function areSameBundles(a: TrustBundles, b: TrustBundles): boolean {
  return a.size === b.size && [...a].every(([domain, roots]) => isSameList(roots, b.get(domain)))
}

function isSameList(a: readonly Uint8Array[], b: readonly Uint8Array[] | undefined): boolean {
  return a.length === b?.length && a.every((der, index) => Buffer.from(der).equals(b[index] ?? new Uint8Array()))
}
