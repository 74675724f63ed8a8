import type { StoreChoice, StoreName } from '../identity/secret-store.ts'

export { storeChoices } from '../identity/secret-store.ts'

/** The identity part of the background process. */
export interface LoginApi {
  /** Turns an ID token into an identity that is kept and used until `logout`. Throws `IDENTITY`, `REFUSED`, `UNREACHABLE`. */
  login(request: LoginRequest, signal: AbortSignal): Promise<IdentityResult>
  /** Forgets identities, which nobody may be connected with. Throws `USAGE`, `NOT_FOUND`, `CONFLICT`. */
  logout(request: LogoutRequest): Promise<LogoutResult>
  /** The identity that a connect without further words uses. */
  whoami(): Promise<IdentityResult>
}

/** A join string that says where the server is, and what a login at its issuer gave. */
export interface LoginRequest {
  readonly joinString: string
  readonly idToken: string
  /** At which issuer, as which client. */
  readonly issuer: string
  readonly clientId: string
  /** With it the login is renewed without the person. */
  readonly refreshToken?: string
  /** Where it may rest. */
  readonly store: StoreChoice
}

/** Which identities are forgotten; without a name and `all` the only one. */
export interface LogoutRequest {
  /** A trust domain, or the URL of an issuer. */
  readonly whose?: string
  readonly all: boolean
}

/** What `nsm logout --json` prints. */
export interface LogoutResult {
  readonly apiVersion: 'nsm/logout/v1'
  /** SPIFFE IDs; a trust domain where its identity could not be read. */
  readonly forgotten: readonly string[]
  /** What a person should know or do. */
  readonly warnings?: readonly string[]
}

/** Answer to both: who this machine is; nothing beside the version when it is nobody. */
export interface IdentityResult {
  readonly apiVersion: 'nsm/whoami/v1'
  readonly spiffeId?: string
  /** Milliseconds since the Unix epoch; it is renewed before. */
  readonly notAfterMs?: number
  /** Set when the identity came from a login. */
  readonly login?: LoginView
}

/** The login of a person. */
export interface LoginView {
  readonly issuer: string
  /** Where the refresh token rests; with `none` the login ends with its session. */
  readonly store: StoreName | 'none'
  /** Why safer places did not take it. */
  readonly reasons: readonly string[]
  /** The issuer's word when it renews the login no more: log in again. */
  readonly refused?: string
}
