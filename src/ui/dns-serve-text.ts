import { printable } from '../base/printable.ts'
import type { DnsServeSettings } from '../daemon/dns-serve.ts'
import { columns } from './columns.ts'

/** What `nsm dns serve` prints when it answers. */
export interface DnsServeResult {
  readonly apiVersion: 'nsm/dns-serve/v1'
  readonly listening: string
  readonly scopes: readonly { readonly suffix: string; readonly mode: string; readonly servers: readonly string[] }[]
}

/** Where it listens, then one line per scope. */
export function dnsServeText({ listening, scopes }: DnsServeResult): string {
  const rows = columns(scopes.map(({ suffix, mode, servers }) => [suffix, mode, servers.join(',')]))
  return [`listening on ${listening}`, ...rows].join('\n')
}

/** Scopes so wide that they are a mistake more often than not, each with what they mean. */
export function wideScopes({ scopes }: DnsServeSettings): string[] {
  return scopes.flatMap(({ suffix, upstreams }) => {
    const name = suffix.replace(/\.$/, '')
    if (name.includes('.') || name.includes('/') || name.includes(':')) return []
    const servers = upstreams.map(({ address }) => address).join(' and ')
    const what = name === '' ? 'every name of this machine is' : `every name under the top-level domain ${name} is`
    return [printable(`${what} asked at ${servers}`)]
  })
}
