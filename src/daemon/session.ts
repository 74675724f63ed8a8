import { addressText } from '../base/address-text.ts'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { IdentitySource } from '../identity/source.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import { type Channel, openChannel, type Target } from '../nsm/channel.ts'
import { createNsmClient, type NsmClient } from '../nsm/client.ts'
import { createRegistryClient, type RegistryClient } from '../registry/client.ts'

/** One identity and one manager: everything that is asked of that manager goes through here. */
export interface Session {
  readonly channel: Channel
  readonly client: NsmClient
  readonly registry: RegistryClient
  readonly source: IdentitySource
  /** Host name or IP address of the manager. */
  readonly address: string
  /** `tcp://host:port`. */
  readonly url: string
  /** Set when the session is with that domain's servers, whose registry knows bare names. */
  readonly domain?: string
  close(): Promise<void>
}

/** Opens a session; it dials at the first call. The session closes the source. */
export function openSession(parts: {
  readonly target: Target
  readonly source: IdentitySource
  readonly clock: Clock
  readonly log: Log
  /** The longest life of the tokens it signs. */
  readonly tokenLifetimeMs?: number | undefined
}): Session {
  const { target, source, clock, tokenLifetimeMs } = parts
  const { trustDomain } = parseSpiffeId(source.current().svid.spiffeId)
  const expect = (spiffeId: string) => parseSpiffeId(spiffeId).trustDomain === trustDomain
  const channel = openChannel({ target, source, clock, expect, tokenLifetimeMs })
  return {
    channel,
    client: createNsmClient(channel),
    registry: createRegistryClient(channel),
    source,
    address: target.address,
    url: urlOf(target),
    async close() {
      channel.close()
      await source.close()
    },
  }
}

/** `tcp://host:port`, with brackets around an IPv6 address. */
export function urlOf(target: Target): string {
  return `tcp://${addressText(target)}`
}
