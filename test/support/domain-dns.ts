import type { Answer } from 'dns-packet'
import { DnsUpstream, reply } from './dns-upstream.ts'

/** Ports of a domain's servers on 127.0.0.1. */
export interface DomainPorts {
  readonly registry: number
  readonly manager: number
}

/** Domains by name. */
export type DomainTable = Readonly<Record<string, DomainPorts>>

/** A name server for the SRV and address records of domains, as a cluster's `k8s_external` gives them. */
export function openDomainDns(domains: DomainTable): Promise<DnsUpstream> {
  return DnsUpstream.open((question) => {
    const answers = domainAnswers(domains, question)
    return [answers ? reply(question, { answers }) : reply(question, { rcode: 3 })]
  })
}

/** The records of a question; undefined for a name that no domain has. */
export function domainAnswers(
  domains: DomainTable,
  { name, type }: { readonly name: string; readonly type: string },
): Answer[] | undefined {
  const found = /^(registry|nsmgr-proxy)\.nsm-system\.(.+)$/.exec(name.toLowerCase())
  const ports = domains[found?.[2] ?? '']
  if (!ports) return undefined
  const port = found?.[1] === 'registry' ? ports.registry : ports.manager
  if (type === 'SRV') return [{ type, name, ttl: 60, data: { port, target: name, priority: 1, weight: 1 } }]
  return type === 'A' ? [{ type, name, ttl: 60, data: '127.0.0.1' }] : []
}
