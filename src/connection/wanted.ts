import type { Connection } from '../nsm/generated/connection_pb.js'
import type { Answer } from './bounds.ts'
import type { Lease } from './lifecycle.ts'

/** What a user wants of one network service; plain, checked at the border. */
export interface Wanted {
  readonly service: string
  /** Interdomain part: `service@domain`. */
  readonly domain?: string
  readonly labels: Readonly<Record<string, string>>
  /** The podName label: the own DNS name. */
  readonly name: string
  readonly interfaceName?: string
  readonly mtuBytes?: number
  readonly allowPrefixes: readonly string[]
  readonly excludePrefixes: readonly string[]
  readonly allowDomains: readonly string[]
  readonly dnsMode: 'fanout' | 'prefer-service' | 'exclusive'
  readonly dns: 'auto' | 'off'
  /** False: the path is not asked for signs of life, and only the manager says that it is dead [nsm-protocol 4.9]. */
  readonly livenessEnabled?: boolean
  /** Between two looks at the path. */
  readonly livenessIntervalMs?: number
  /** A path that gives no sign of life for this long, and the looks it takes, is dead. */
  readonly livenessTimeoutMs?: number
  /** Service URLs whose services may overlap each other, group by group [nsm-protocol 3]. */
  readonly awarenessGroups?: readonly (readonly string[])[]
}

/** A granted connection, in NSM's words and in plain ones. */
export interface NsmLease extends Lease {
  /** The whole last answer: refresh and close send it back. */
  readonly connection: Connection
  readonly answer: Answer
  readonly peer: TunnelPeer
  /** Name of the network service endpoint. */
  readonly endpointName: string
  /** The smallest of what both sides said. */
  readonly mtuBytes: number
  /** End of the lease unless it is refreshed, milliseconds since the Unix epoch. */
  readonly expiresMs: number
  /** True when the session has to be made anew, because the other side may have lost it. */
  readonly renewed: boolean
}

/** The WireGuard peer of a connection. */
export interface TunnelPeer {
  readonly publicKey: Uint8Array
  readonly address: string
  readonly port: number
}

/** How a service is named in requests, logs and views. */
export function serviceText(wanted: { readonly service: string; readonly domain?: string }): string {
  return wanted.domain ? `${wanted.service}@${wanted.domain}` : wanted.service
}

/** The prefixes that go into the tunnel of a lease, with the own addresses. */
export function tunnelPrefixes(answer: Answer): string[] {
  return [...new Set([...answer.addresses, ...answer.endpointAddresses, ...answer.routes])]
}

/** Addresses without their length. */
export function bareAddresses(prefixes: readonly string[]): string[] {
  return prefixes.map((prefix) => prefix.split('/')[0] ?? '')
}

/** What an endpoint can change about this machine; its own place and keys are not among it. */
export function contextText({ answer, mtuBytes }: NsmLease): string {
  const { addresses, endpointAddresses, routes, dns } = answer
  return JSON.stringify([addresses, endpointAddresses, routes, dns, mtuBytes])
}
