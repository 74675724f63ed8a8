import type { ConnectionView } from '../connection/view.ts'
import type { DnsApi } from './dns-methods.ts'
import type { LoginApi } from './login-protocol.ts'
import type { TunnelApi } from './tunnel-protocol.ts'

export type { ConnectionView } from '../connection/view.ts'

/** What the background process can do; `client.ts` (socket) and `runtime.ts` (in process) implement it. */
export interface DaemonApi extends DnsApi, TunnelApi, LoginApi {
  /** Joins services and resolves when each is usable; throws the first failure after everything is undone. */
  connect(request: ConnectRequest, progress: (step: ProgressStep) => void, signal: AbortSignal): Promise<ConnectResult>
  /** Leaves services (all when none is named); a service that is not connected is no error. */
  disconnect(request: DisconnectRequest, signal: AbortSignal): Promise<DisconnectResult>
  /** What is up. */
  status(): Promise<StatusResult>
  /** The services that the registry knows. */
  list(request: ListRequest, signal: AbortSignal): Promise<ListResult>
  /** Version and process id of the process that answers. */
  version(): Promise<VersionResult>
}

/** How names under a service's domains are resolved. */
export type DnsMode = 'fanout' | 'prefer-service' | 'exclusive'

/** What `nsm connect` asks for. Files travel as bytes, never as paths [security L4]. */
export interface ConnectRequest {
  /** Service URLs, verbatim. */
  readonly services: readonly string[]
  /** Content of the join file. */
  readonly joinString?: string
  /** A token of an issuer that the server believes; shown when the join string carries none. */
  readonly idToken?: string
  /** `tcp://host:port`; needed with `svidFiles` and `workloadSocket`. */
  readonly manager?: string
  readonly svidFiles?: SvidText
  /** Where the SPIFFE agent of this machine listens, as in SPIFFE_ENDPOINT_SOCKET; used when nothing else says who we are. */
  readonly workloadSocket?: string
  /** Which of the agent's identities: the first one when nothing is said. */
  readonly workloadHint?: string
  readonly workloadId?: string
  /** True when the agent was asked for by name: what was joined before does not count then. */
  readonly workloadFirst?: boolean
  /** The user behind `sudo`, whose applications may use the identity too. */
  readonly applicationUid?: number
  readonly labels: Readonly<Record<string, string>>
  readonly interfaceName?: string
  readonly mtuBytes?: number
  readonly allowPrefixes: readonly string[]
  readonly excludePrefixes: readonly string[]
  /** DNS zones that a service may claim beside its own [security D1]. */
  readonly allowDomains?: readonly string[]
  readonly dnsMode: DnsMode
  readonly dns: 'auto' | 'off'
  readonly timeoutMs: number
  /** The podName label, so the own DNS name; the host's name by default. */
  readonly name?: string
  /** How long reaching the manager may take, inside `timeoutMs`. */
  readonly dialTimeoutMs?: number
  /** The longest life of the tokens we sign for each call, and so of a lease. */
  readonly tokenLifetimeMs?: number
  /** False: only the manager says that the path is dead. */
  readonly livenessEnabled?: boolean
  readonly livenessIntervalMs?: number
  readonly livenessTimeoutMs?: number
  /** Service URLs, group by group: addresses of services of one group may overlap. */
  readonly awarenessGroups?: readonly (readonly string[])[]
}

/** An X.509-SVID as PEM text. */
export interface SvidText {
  readonly svidPem: string
  readonly keyPem: string
  readonly bundlePem: string
  /** Where its successors will be: another program renews them there. */
  readonly paths?: SvidPaths
}

/** The files of an X.509-SVID, absolute. Only root and the user of the background process may name them, and it reads them as that. */
export interface SvidPaths {
  readonly svidPath: string
  readonly keyPath: string
  readonly bundlePath: string
}

/** The named parts of `nsm connect`, in order. */
export const phases = ['identity', 'registry', 'request', 'tunnel', 'routes', 'dns'] as const

/** One part of `nsm connect`. */
export type Phase = (typeof phases)[number]

/** A part began or ended; `elapsedMs` counts from the beginning of the call. */
export interface ProgressStep {
  readonly phase: Phase
  readonly state: 'started' | 'done'
  readonly elapsedMs: number
  readonly detail?: string
  readonly service?: string
}

/** Answer to `connect`. */
export interface ConnectResult {
  readonly apiVersion: 'nsm/connect/v1'
  readonly connections: readonly ConnectionView[]
  /** True when nothing had to be done. */
  readonly alreadyUp: boolean
  readonly steps: readonly { readonly phase: string; readonly ms: number }[]
  /** Where applications get this identity, as in SPIFFE_ENDPOINT_SOCKET. */
  readonly spiffeSocket?: string
  readonly totalMs: number
}

/** What `nsm disconnect` asks for; no services means all of them. */
export interface DisconnectRequest {
  readonly services: readonly string[]
  /** Do not wait for the manager. */
  readonly force: boolean
}

/** Answer to `disconnect`: the services that were left. */
export interface DisconnectResult {
  readonly apiVersion: 'nsm/disconnect/v1'
  readonly disconnected: readonly string[]
}

/** Answer to `status`. */
export interface StatusResult {
  readonly apiVersion: 'nsm/status/v1'
  readonly running: boolean
  readonly identity?: { readonly spiffeId: string; readonly notAfterMs: number }
  /** Where applications get this identity, as in SPIFFE_ENDPOINT_SOCKET. */
  readonly spiffeSocket?: string
  readonly connections: readonly ConnectionView[]
  readonly dns?: DnsView
  readonly warnings: readonly string[]
}

/** The resolver in `status`. */
export interface DnsView {
  readonly listening: string
  readonly scopes: readonly { readonly suffix: string; readonly mode: string; readonly servers: readonly string[] }[]
}

/** What `nsm list` asks for: a pattern with `*`. */
export interface ListRequest {
  readonly pattern?: string
}

/** Answer to `list`. */
export interface ListResult {
  readonly apiVersion: 'nsm/list/v1'
  readonly services: readonly ListedService[]
}

/** One service of the registry with its live endpoints. */
export interface ListedService {
  readonly name: string
  readonly payload: string
  readonly endpoints: readonly { readonly name: string; readonly url: string; readonly expiresMs: number }[]
}

/** Answer to `version`. */
export interface VersionResult {
  readonly version: string
  readonly pid: number
}
