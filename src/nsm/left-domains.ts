import { createListeners } from '../base/listeners.ts'
import type { IdentitySource, TrustBundles } from '../identity/source.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import type { Admission } from './admission.ts'
import { policyRefusal } from './grpc-errors.ts'

/**
 * The same admission, but whoever is of a domain that is believed no longer may do nothing: its bundle holds no root any more, by
 * which it has revoked everything, or is gone. So leases end, as connections do by themselves. A domain that was never
 * believed is left to the admission: a relay may ask for its workloads.
 */
export function withoutLeftDomains(
  admission: Admission,
  source: Pick<IdentitySource, 'current' | 'onChange'>,
): Admission & { close(): void } {
  const listeners = createListeners()
  let believed = domainsOf(source.current().bundles)
  const left = new Set<string>()
  const stop = source.onChange(({ bundles }) => {
    const now = domainsOf(bundles)
    const gone = [...believed].filter((domain) => !now.has(domain))
    for (const domain of gone) left.add(domain)
    for (const domain of now) left.delete(domain)
    believed = now
    if (gone.length > 0) listeners.tell()
  })
  const isOut = (id: string) => left.size > 0 && left.has(domainOf(id))
  return {
    isOpen: admission.isOpen,
    decide: (question) =>
      isOut(question.id) ? { isGranted: false, reason: 'UNKNOWN_DOMAIN' } : admission.decide(question),
    check(question) {
      if (!isOut(question.id)) return admission.check(question)
      throw policyRefusal(`NOT_GRANTED: ${question.action}: the trust domain is not believed any more`)
    },
    isExcluded: (id) => isOut(id) || admission.isExcluded(id),
    isAdmitted: (id) => !isOut(id) && admission.isAdmitted(id),
    onChange(listener) {
      const stops = [listeners.add(listener), admission.onChange(listener)]
      return () => {
        for (const stop of stops) stop()
      }
    },
    close: stop,
  }
}

function domainsOf(bundles: TrustBundles): Set<string> {
  return new Set([...bundles].filter(([, roots]) => roots.length > 0).map(([domain]) => domain))
}

/** Empty for what is no SPIFFE ID: the admission has the word. */
function domainOf(id: string): string {
  try {
    return parseSpiffeId(id).trustDomain
  } catch {
    return ''
  }
}
