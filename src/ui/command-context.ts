import type { NsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { Environment, Settings } from '../base/settings.ts'
import type { CaState, RotateRequest } from '../daemon/ca-protocol.ts'
import type { DnsQuery, DnsQueryResult } from '../daemon/dns-protocol.ts'
import type { DnsServeHandle, DnsServeSettings } from '../daemon/dns-serve.ts'
import type { InviteResult as FreshInvite, OpenInvite } from '../daemon/inviter.ts'
import type { LoginAround, Obtained } from '../daemon/login.ts'
import type { PolicyCheckResult, PolicyTest, PolicyTestResult } from '../daemon/policy-protocol.ts'
import type { DaemonApi } from '../daemon/protocol.ts'
import type { Served, ServeSettings } from '../daemon/serve-settings.ts'

/** What a command gets from the process around it; tests give doubles. */
export interface CommandContext {
  readonly environment: Environment
  readonly settings: Settings
  /** Aborted by SIGINT, SIGTERM or SIGHUP. */
  readonly signal: AbortSignal
  /** From here on SIGHUP calls `action` and ends nothing. */
  onHangup(action: () => void): void
  /** True when standard output is a terminal: ages are then relative. */
  readonly isTerminal: boolean
  /** Wall clock, milliseconds since the Unix epoch. */
  wallMs(): number
  /** Writes one line, or several, of the answer. */
  writeOut(line: string): void
  /** Writes progress, warnings and errors. */
  writeError(line: string): void
  /** All of standard input as text. */
  readInput(): Promise<string>
  /** Opens the background process; `start` says whether one is started when none runs. */
  connectDaemon(settings: Settings, options: { readonly start: boolean }): Promise<DaemonConnection>
  /** Starts the server side in this process. */
  startServe(settings: ServeSettings, log: Log, signal: AbortSignal): Promise<ServeHandle>
  /** Asks the running server for a join string. */
  invite(
    settings: Settings,
    wanted: { readonly id?: string; readonly ttlMs: number; readonly endpoint?: boolean; readonly open?: boolean },
  ): Promise<InviteResult>
  /** The authority of the running server and the domains it federates with. */
  caStatus(settings: Settings): Promise<CaState>
  /** Has the running server change its root. */
  rotateRoot(settings: Settings, wanted: RotateRequest): Promise<CaState>
  /** The trust bundle of the running server as text. */
  trustBundle(settings: Settings): Promise<string>
  /** Has a person log in at the issuer of a server, and gives the tokens. */
  obtainLogin(joinString: string, around: LoginAround): Promise<Obtained>
  /** Asks a policy file, or the server that runs here, whether somebody may do something. */
  testPolicy(settings: Settings, asked: PolicyTest & { readonly path?: string }): Promise<PolicyTestResult>
  /** Reads a policy file, or asks the server that runs here about its own. */
  checkPolicy(settings: Settings, path?: string): Promise<PolicyCheckResult>
  /** Asks a DNS server over the network. */
  queryDns(query: DnsQuery, signal: AbortSignal): Promise<DnsQueryResult>
  /** Starts the resolver alone in this process. */
  startDnsServe(settings: DnsServeSettings, log: Log): Promise<DnsServeHandle>
  /** Takes back what a killed background process left. */
  repairMachine(settings: Settings, log: Log): Promise<{ readonly repaired: readonly string[] }>
}

/** The background process as long as the command holds it. */
export type DaemonConnection = DaemonApi & { close(): Promise<void> }

/** A fresh single-use join string; the one without a token names nobody and does not end. */
export type InviteResult = OpenInvite & Partial<FreshInvite>

/** A running server. */
export interface ServeHandle {
  /** Empty when there is none: a further site whose first site is away. */
  readonly joinString: string
  /** For those who show an ID token of an issuer. */
  readonly openJoinString?: string
  /** What is served in truth: a further site serves what the first one says. */
  readonly info?: Served
  readonly failed: Promise<NsmError>
  /** Reads the files of the policy and of the issuers again. */
  reload(): Promise<void>
  stop(): Promise<void>
}
