import type { Clock } from '../base/clock.ts'
import type { IdentitySource } from '../identity/source.ts'
import { findDomain, type NameService } from '../nsm/interdomain-lookup.ts'
import { answersFor } from '../nsm/interdomain-trust.ts'
import { Domains } from '../registry/domains.ts'
import type { Dial } from '../registry/next-hop.ts'

/** The way from a server to other domains, which it finds by DNS; `x@own` is x. */
export function openDomains(parts: {
  readonly own: string
  readonly source: IdentitySource
  readonly names: NameService
  readonly dial: Dial
  readonly clock: Clock
}): Domains {
  const { own, source, names, dial, clock } = parts
  return new Domains({
    ...{ own, dial, clock },
    find: (domain, signal) => findDomain(domain, names, signal),
    expect: (domain) => answersFor(domain, source),
  })
}
