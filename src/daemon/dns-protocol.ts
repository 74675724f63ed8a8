import type { NamesStatus } from '../connection/names.ts'
import type { Trace } from '../dns/dns.ts'
import type { MessageText } from '../dns/message-text.ts'

export type { Contestant, ScopeFigures, ScopeStatus, Trace, TraceHop } from '../dns/dns.ts'
export type { MessageText, RecordText } from '../dns/message-text.ts'

/** Answer to `dnsStatus`; without `resolver` no service brings names, so none runs. */
export interface DnsStatusResult {
  readonly apiVersion: 'nsm/dns-status/v1'
  readonly resolver?: NamesStatus
}

/** What `dnsTrace` asks for. */
export interface DnsTraceRequest {
  readonly name: string
  /** `A`, `AAAA`, `TYPE65`, ... */
  readonly type: string
}

/** Answer to `dnsTrace`. */
export type DnsTraceResult = Trace & { readonly apiVersion: 'nsm/dns-trace/v1' }

/** Answer to `dnsFlush`: the replies that are forgotten. */
export interface DnsFlushResult {
  readonly apiVersion: 'nsm/dns-flush/v1'
  readonly forgotten: number
}

/** One question to a resolver over the network. */
export interface DnsQuery {
  readonly server: { readonly address: string; readonly port: number }
  readonly name: string
  readonly type: string
  readonly overTcp: boolean
}

/** What a resolver answered. */
export type DnsQueryResult = MessageText & {
  readonly apiVersion: 'nsm/dns-query/v1'
  readonly server: string
  readonly name: string
  readonly type: string
  readonly overTcp: boolean
  readonly tookMs: number
  readonly bytes: number
}
