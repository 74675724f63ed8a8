/** A route of this machine; `gateway` is undefined for a prefix on the link. */
export interface Route {
  readonly interfaceName: string
  readonly prefix: string
  readonly gateway: string | undefined
}

/** What this machine's network looks like. */
export interface HostNetwork {
  /** '192.0.2.7/24': host bits are kept. */
  readonly addresses: readonly { readonly interfaceName: string; readonly prefix: string }[]
  readonly routes: readonly Route[]
  readonly interfaceNames: readonly string[]
}

/** Tells whether interfaces, addresses or routes of this network namespace change. */
export interface HostChanges {
  /** True when something changed since the last call, or since it was opened. */
  any(): boolean
  close(): void
}

/**
 * Ours: number of the tunnels' routing table, of the rule that leads to it, and of the mark on the tunnels' own UDP
 * packets, which the rule passes over [security E5, E6]. "ns" in ASCII.
 */
export const tableNumber = 0x6e73
/** Ours: the table of default routes, which only a plain tunnel may have; asked after the main table's exact routes. */
export const defaultTableNumber = 0x6e75

/** What one interface is to have; a prefix is routed only when `routes` lists it. */
export interface InterfaceSettings {
  readonly interfaceName: string
  /** With their length: '10.64.0.5/32'. */
  readonly addresses: readonly string[]
  /** Prefixes that leave through the interface. */
  readonly routes: readonly string[]
  readonly mtuBytes: number
  /** Interfaces whose routes may overlap these; the older one keeps the packets. */
  readonly mayOverlap?: readonly string[]
}

/** What of this machine belongs to a connection, also while it has no tunnel. */
export interface Fenced {
  readonly interfaceName: string
  /** Own addresses in the tunnel, with their length. */
  readonly addresses: readonly string[]
  /** Prefixes of the service. */
  readonly prefixes: readonly string[]
}

/**
 * Keeps a connection's packets and the other ones of this machine apart, from the first lease until the end: packets to the
 * service that find no tunnel are refused [security E7]; through the tunnel only packets to the own addresses come in, and
 * nothing comes to those from elsewhere [security E9].
 */
export interface Fence {
  /** Makes the fence this one; what is the same before and after stays throughout. */
  set(fenced: Fenced): Promise<void>
  /** Takes everything back; calling it again does nothing more. */
  close(): Promise<void>
}
