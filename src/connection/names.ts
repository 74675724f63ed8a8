import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { Settings } from '../base/settings.ts'
import { createTurns } from '../base/turns.ts'
import { type Dns, type DnsStatus, openDns, type ScopeConfig } from '../dns/dns.ts'
import {
  type ChosenSystemDns,
  type HostUpstream,
  installSystemDns,
  type MethodName,
  readSystemUpstreams,
  type Served,
} from '../dns/os/open.ts'
import { listenCandidates } from '../dns/own-addresses.ts'
import { resolverJournalPath } from './journal.ts'

/** The resolver and its place in the system, for all connections together. */
export interface Names {
  /** The resolvers in use on this machine, ours not among them. */
  upstreams(): Promise<readonly HostUpstream[]>
  /** Opens the listener ahead of the first `attach`; errors show there. */
  prepare(): void
  /** Serves a connection's scopes; the first one makes the system ask us. */
  attach(owner: string, names: AttachedNames): Promise<void>
  /** Takes them away; with the last one the system's resolver is as before. */
  detach(owner: string): Promise<void>
  /** The resolver itself; undefined while nothing is attached. */
  resolver(): Dns | undefined
  /** Undefined while nothing is attached. */
  status(): NamesStatus | undefined
  close(): Promise<void>
}

/** The resolver and its place in the system. */
export type NamesStatus = DnsStatus & {
  /** `address:port` of UDP and TCP. */
  readonly listening: string
  /** How the system is made to ask us, and why in this way; undefined until it is. */
  readonly system?: { readonly method: MethodName; readonly why: string }
}

/** What a connection wants served. */
export interface AttachedNames {
  readonly scopes: readonly ScopeConfig[]
  readonly searchDomains: readonly string[]
  /** For systems that keep resolvers by interface. */
  readonly interfaceName?: string
}

/** The functions of `dns/`, so that tests can stand in for them. */
export interface NamesParts {
  readonly settings: Pick<Settings, 'stateDir' | 'resolvConf'>
  readonly clock: Clock
  readonly log: Log
  readonly openDns?: typeof openDns
  readonly readSystemUpstreams?: typeof readSystemUpstreams
  readonly installSystemDns?: typeof installSystemDns
}

/** Changes are made one after the other: two connections never install or restore at the same time. */
export function createNames(parts: NamesParts): Names {
  const names = new SystemNames(parts)
  const turns = createTurns()
  const inTurn = <T>(change: () => Promise<T>): Promise<T> => turns.run('names', change)
  return {
    upstreams: () => names.upstreams(),
    prepare: () => void inTurn(() => names.open()).catch(() => {}),
    attach: (owner, attached) => inTurn(() => names.attach(owner, attached)),
    detach: (owner) => inTurn(() => names.detach(owner)),
    resolver: () => names.resolver(),
    status: () => names.status(),
    close: () => inTurn(() => names.closeAll()),
  }
}

class SystemNames {
  readonly #parts: NamesParts
  readonly #attached = new Map<string, AttachedNames>()
  #dns: Dns | undefined
  #system: ChosenSystemDns | undefined
  /** Those of the network that the machine is in at the moment. */
  #hostUpstreams: readonly HostUpstream[] = []

  constructor(parts: NamesParts) {
    this.#parts = parts
  }

  async upstreams(): Promise<readonly HostUpstream[]> {
    if (this.#system) return this.#hostUpstreams
    const read = this.#parts.readSystemUpstreams ?? readSystemUpstreams
    return (await read(this.#parts.settings.resolvConf)).upstreams
  }

  async open(): Promise<Dns> {
    if (this.#dns) return this.#dns
    const { clock, log } = this.#parts
    const open = this.#parts.openDns ?? openDns
    this.#dns = await open({ clock, log, listen: listenCandidates, defaultUpstreams: await this.upstreams() })
    return this.#dns
  }

  async attach(owner: string, attached: AttachedNames): Promise<void> {
    const dns = await this.open()
    dns.setScopes(owner, attached.scopes)
    this.#attached.set(owner, attached)
    if (this.#system) return this.#system.update(this.#served())
    const { settings, log } = this.#parts
    const install = this.#parts.installSystemDns ?? installSystemDns
    this.#system = await install({
      resolvConf: settings.resolvConf,
      journalPath: resolverJournalPath(settings.stateDir),
      listener: dns.listening,
      ...this.#served(),
      log,
      onForeignUpstreams: (upstreams) => this.#useUpstreams(dns, upstreams),
    })
    this.#useUpstreams(dns, this.#system.previousUpstreams)
  }

  #useUpstreams(dns: Dns, upstreams: readonly HostUpstream[]): void {
    this.#hostUpstreams = upstreams
    dns.setDefaultUpstreams(upstreams)
  }

  async detach(owner: string): Promise<void> {
    if (!this.#attached.delete(owner)) return
    if (this.#attached.size === 0) return this.closeAll()
    this.#dns?.removeOwner(owner)
    await this.#system?.update(this.#served())
  }

  /** The system first, so that nobody asks a resolver that is gone. */
  async closeAll(): Promise<void> {
    const { restore } = this.#system ?? {}
    this.#system = undefined
    const dns = this.#dns
    this.#dns = undefined
    this.#attached.clear()
    try {
      await restore?.()
    } finally {
      await dns?.close()
    }
  }

  resolver(): Dns | undefined {
    return this.#attached.size === 0 ? undefined : this.#dns
  }

  status(): NamesStatus | undefined {
    const dns = this.resolver()
    if (!dns) return undefined
    const { address, port } = dns.listening
    const system = this.#system && { method: this.#system.method, why: this.#system.why }
    return { ...dns.status(), listening: `${address}:${port}`, ...(system ? { system } : {}) }
  }

  #served(): Served {
    const attached = [...this.#attached.values()]
    const links = attached.flatMap(({ interfaceName, searchDomains, scopes }) =>
      interfaceName ? [{ interfaceName, searchDomains, suffixes: scopes.map(({ suffix }) => suffix) }] : [],
    )
    return { searchDomains: [...new Set(attached.flatMap(({ searchDomains }) => searchDomains))], links }
  }
}
