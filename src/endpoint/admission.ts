/**
 * True when the list lets this identity in. No list admits everybody whom TLS verified. An entry is a SPIFFE ID, or ends
 * in `/*` for everything below it: `spiffe://example.org/*` is a whole trust domain.
 */
export function isAdmitted(admission: readonly string[] | undefined, spiffeId: string): boolean {
  if (!admission) return true
  return admission.some((entry) => {
    if (entry.endsWith('/*')) return spiffeId.startsWith(entry.slice(0, -1))
    return entry === spiffeId
  })
}
