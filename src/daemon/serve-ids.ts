/** The SPIFFE ID of the server that holds the authority. */
export function firstSiteId(trustDomain: string): string {
  return `spiffe://${trustDomain}/server`
}

/** Where the SPIFFE IDs of further sites begin. */
export function sitePrefixOfIds(trustDomain: string): string {
  return `spiffe://${trustDomain}/site/`
}

/** True for the server of any site. */
export function isSiteOf(trustDomain: string): (spiffeId: string) => boolean {
  return (spiffeId) => spiffeId === firstSiteId(trustDomain) || spiffeId.startsWith(sitePrefixOfIds(trustDomain))
}
