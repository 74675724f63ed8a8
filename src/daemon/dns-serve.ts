import { addressText } from '../base/address-text.ts'
import { keepingClock, systemClock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { type DnsStatus, openDns, type ScopeConfig } from '../dns/dns.ts'
import { targetText } from '../dns/upstream-socket.ts'

/** An IP address and a port. */
export interface ServerAddress {
  readonly address: string
  readonly port: number
}

/** What a resolver without any connection serves. */
export interface DnsServeSettings {
  readonly listen: ServerAddress
  /** Asked for names under no scope; empty: such names are refused. */
  readonly defaults: readonly ServerAddress[]
  readonly scopes: readonly ScopeConfig[]
}

/** A resolver that runs alone. */
export interface DnsServeHandle {
  /** `address:port` of UDP and TCP. */
  readonly listening: string
  /** Takes over other upstreams and scopes; questions under way keep theirs. Throws `USAGE` for another listening address. */
  reload(settings: DnsServeSettings): void
  status(): DnsStatus
  stop(): Promise<void>
}

/** All scopes of the settings have this one owner. */
const owner = 'settings'

/** Opens the resolver; throws `CONFLICT` or `PERMISSION` when it cannot listen, `USAGE` for scopes that cannot be. */
export async function startDnsServe(settings: DnsServeSettings, log: Log): Promise<DnsServeHandle> {
  const { listen } = settings
  const dns = await openDns({ clock: systemClock, log, listen: [listen], defaultUpstreams: settings.defaults })
  const apply = ({ defaults, scopes }: DnsServeSettings) => {
    dns.setScopes(owner, scopes)
    dns.setDefaultUpstreams(defaults)
  }
  try {
    apply(settings)
  } catch (error) {
    await dns.close()
    throw error
  }
  const release = holdProcess()
  return {
    listening: addressText({ address: listen.address, port: dns.listening.port }),
    reload(changed) {
      if (targetText(changed.listen) !== targetText(listen)) throw otherAddress(changed.listen)
      apply(changed)
    },
    status: () => dns.status(),
    stop() {
      release()
      return dns.close()
    },
  }
}

function otherAddress(listen: ServerAddress): NsmError {
  const message = `the listening address cannot change to ${targetText(listen)} while questions are answered`
  return new NsmError('USAGE', message, 'stop `nsm dns serve` and start it again')
}

/** The resolver's sockets do not hold the process; this does, from day to day. */
function holdProcess(): () => void {
  let release = () => {}
  const hold = () => {
    release = keepingClock.after(dayMs, hold)
  }
  hold()
  return () => release()
}

const dayMs = 86_400_000
