/** The identity part of the background process. */
export interface LoginApi {
  /** Turns an ID token into an identity that is kept and used until `logout`. Throws `IDENTITY`, `REFUSED`, `UNREACHABLE`. */
  login(request: LoginRequest, signal: AbortSignal): Promise<IdentityResult>
  /** Forgets the identity that is in use; what is connected stays up until its lease ends. Tells which one it was. */
  logout(): Promise<IdentityResult>
  /** The identity that a connect without further words uses. */
  whoami(): Promise<IdentityResult>
}

/** A join string that says where the server is, and the ID token for it. */
export interface LoginRequest {
  readonly joinString: string
  readonly idToken: string
}

/** Answer to all three: who this machine is, or was; nothing beside the version when it is nobody. */
export interface IdentityResult {
  readonly apiVersion: 'nsm/whoami/v1'
  readonly spiffeId?: string
  /** Milliseconds since the Unix epoch; it is renewed before. */
  readonly notAfterMs?: number
}
