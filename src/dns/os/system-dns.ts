import type { Log } from '../../base/log.ts'
import type { Undo } from '../../base/undo.ts'

/** A resolver of the host. */
export interface HostUpstream {
  readonly address: string
  readonly port: number
}

/** How a system is made to ask us. */
export type MethodName = 'resolved' | 'openresolv' | 'resolvconf' | 'file'

/** An interface of a service, for systems that keep resolvers by interface. */
export interface SystemLink {
  readonly interfaceName: string
  /** What short names are completed with. */
  readonly searchDomains: readonly string[]
  /** All names that are the service's: domain suffixes, and IP prefixes for the reverse names of their addresses. */
  readonly suffixes: readonly string[]
}

/** What the system is to hand to us; a method uses the half that it can express. */
export interface Served {
  readonly searchDomains: readonly string[]
  readonly links: readonly SystemLink[]
}

/** The system's resolver setting while it points to us. */
export interface SystemDns {
  readonly method: MethodName
  /** The resolvers the host had before. */
  readonly previousUpstreams: readonly HostUpstream[]
  /** Changes what services bring. */
  update(change: Served): Promise<void>
  /** Puts back what was there, if the setting is still ours. */
  readonly restore: Undo
}

/** The same, and why it is made in this way, in words for a person. */
export interface ChosenSystemDns extends SystemDns {
  readonly why: string
}

/** What an installation is made from. */
export interface SystemDnsSettings extends Served {
  readonly resolvConf: string
  readonly journalPath: string
  readonly listener: HostUpstream
  readonly log: Log
  /** Told the resolvers of the host when they change while the setting is ours. */
  readonly onForeignUpstreams?: (upstreams: readonly HostUpstream[]) => void
}

/** How a change was taken back: restored, or left because somebody else wrote the setting since. */
export type RestoreResult = 'nothing' | 'restored' | 'left'
