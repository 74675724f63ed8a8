import type { Clock } from '../base/clock.ts'
import type { IdentitySource } from '../identity/source.ts'
import { openChannel } from '../nsm/channel.ts'
import type { DomainServers } from '../nsm/interdomain-lookup.ts'
import { answersFor } from '../nsm/interdomain-trust.ts'
import { openDomain } from '../registry/domain.ts'
import { type Session, urlOf } from './session.ts'

/** A session with another domain's registry and border manager, for who has no manager; it closes the source. */
export function openDomainSession(parts: {
  readonly domain: string
  readonly servers: DomainServers
  readonly source: IdentitySource
  readonly clock: Clock
  readonly tokenLifetimeMs?: number | undefined
}): Session {
  const { domain, servers, source, clock, tokenLifetimeMs } = parts
  const { client, registry, channel, close } = openDomain({
    ...{ domain, servers, clock },
    dial: (target, expect) => openChannel({ target, source, clock, expect, tokenLifetimeMs }),
    expect: answersFor(domain, source),
  })
  return {
    ...{ channel, client, registry, source, domain, home: channel },
    address: servers.manager.address,
    url: urlOf(servers.manager),
    async close() {
      close()
      await source.close()
    },
  }
}
