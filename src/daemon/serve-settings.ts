import type { Network } from './serve-home.ts'

/** What a server serves, and where. */
export interface Served extends Network {
  /** `host:port` or `[host]:port` of gRPC. */
  readonly listen: string
  /** UDP port of WireGuard. */
  readonly wireguardPort: number
}

/** What a server is to serve; a port of 0 is any. */
export interface ServeSettings extends Served {
  /** Address or `address:port` at which clients reach this machine; its first global address by default. */
  readonly advertise?: string
  readonly stateDir: string
  readonly runtimeDir: string
  readonly trustDomain?: string
  /** Length of a site's part of an IPv4 prefix; 24 by default. */
  readonly siteLength?: number
  /** Label `site` of the endpoint, by which members choose it; the host's name by default. */
  readonly site?: string
  /** SPIFFE IDs, or `spiffe://domain/path/*`, of managers and forwarders that may pass on requests of others. */
  readonly relays?: readonly string[]
  /** File that says who may do what, read again when it changes; without it everybody whom TLS verified may come. */
  readonly policyPath?: string
  /** Whose ID tokens make members: a file that is read again when it changes, or one issuer and its rules, `claim=value,claim=value`. */
  readonly issuers?: { readonly path: string } | { readonly url: string; readonly allowed: readonly string[] }
  /** Gives the trust bundle to other domains with a certificate of the web, besides the port of gRPC, which shows our SVID. */
  readonly bundleWeb?: { readonly listen: string; readonly certificatePath: string; readonly keyPath: string }
  /** PEM of authorities that count for bundle endpoints of the web beside the web's own. */
  readonly bundleRoots?: string
  /** Makes this a further site of the network that gave it: that one's service, prefixes and domain count. */
  readonly joinString?: string
}
