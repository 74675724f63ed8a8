/** The SPIFFE ID of the server that holds the authority. */
export function firstSiteId(trustDomain: string): string {
  return `spiffe://${trustDomain}/server`
}

/** Where the SPIFFE IDs of further sites begin. */
export function sitePrefixOfIds(trustDomain: string): string {
  return `spiffe://${trustDomain}/site/`
}

/** Those who may pass on members' requests and link their endpoints, as patterns. */
export function sitePatterns(trustDomain: string): readonly string[] {
  return [firstSiteId(trustDomain), `${sitePrefixOfIds(trustDomain)}*`]
}

/** True for the server of any site. */
export function isSiteOf(trustDomain: string): (spiffeId: string) => boolean {
  return (spiffeId) => spiffeId === firstSiteId(trustDomain) || spiffeId.startsWith(sitePrefixOfIds(trustDomain))
}
