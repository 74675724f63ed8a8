import type { IdentityResult, LoginApi } from '../../src/daemon/login-protocol.ts'

type Answer = <T>(name: string, value: T, request?: unknown) => Promise<T>

/** Who the doubles say this machine is. */
export const someIdentity: IdentityResult = {
  apiVersion: 'nsm/whoami/v1',
  spiffeId: 'spiffe://acme.example/user/alice',
  notAfterMs: Date.UTC(2026, 0, 1, 13, 0, 0),
}

/** The identity part of a background process that does nothing. */
export function fakeLoginApi(answer: Answer, identity: IdentityResult = someIdentity): LoginApi {
  return {
    login: (request) => answer('login', identity, request),
    logout: () => answer('logout', identity),
    whoami: () => answer('whoami', identity),
  }
}
