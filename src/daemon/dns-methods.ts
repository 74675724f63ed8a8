import { NsmError } from '../base/errors.ts'
import type { Names } from '../connection/names.ts'
import type { DnsFlushResult, DnsStatusResult, DnsTraceRequest, DnsTraceResult } from './dns-protocol.ts'

/** What the background process tells of its resolver. */
export interface DnsApi {
  /** Scopes, modes, upstreams and counters. */
  dnsStatus(): Promise<DnsStatusResult>
  /** One look-up with all its contestants. Throws `NOT_READY` while no resolver runs, `USAGE` for what is no name. */
  dnsTrace(request: DnsTraceRequest, signal: AbortSignal): Promise<DnsTraceResult>
  /** Forgets cached replies. */
  dnsFlush(): Promise<DnsFlushResult>
}

/** The resolver of the connections, for the commands under `nsm dns`. */
export function createDnsApi(names: Pick<Names, 'resolver' | 'status'>): DnsApi {
  return {
    async dnsStatus() {
      const resolver = names.status()
      return { apiVersion: 'nsm/dns-status/v1', ...(resolver ? { resolver } : {}) }
    },
    async dnsTrace(request, signal) {
      const resolver = names.resolver()
      if (!resolver) throw new NsmError('NOT_READY', 'no resolver runs: no service brings names', 'nsm connect SERVICE')
      return { apiVersion: 'nsm/dns-trace/v1', ...(await resolver.trace(request, signal)) }
    },
    async dnsFlush() {
      return { apiVersion: 'nsm/dns-flush/v1', forgotten: names.resolver()?.flush() ?? 0 }
    },
  }
}
