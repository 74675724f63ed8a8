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

/** What one interface is to have; a prefix is routed only when `routes` lists it. */
export interface InterfaceSettings {
  readonly interfaceName: string
  /** With their length: '10.64.0.5/32'. */
  readonly addresses: readonly string[]
  /** Prefixes that leave through the interface. */
  readonly routes: readonly string[]
  readonly mtuBytes: number
}
