import type { IdentityResult, LoginApi, LogoutResult } from '../../src/daemon/login-protocol.ts'

type Answer = <T>(name: string, value: T, request?: unknown) => Promise<T>

/** Who the doubles say this machine is. */
export const someIdentity: IdentityResult = {
  apiVersion: 'nsm/whoami/v1',
  spiffeId: 'spiffe://acme.example/user/alice',
  notAfterMs: Date.UTC(2026, 0, 1, 13, 0, 0),
}

/** What it forgets. */
export const someLogout: LogoutResult = {
  apiVersion: 'nsm/logout/v1',
  forgotten: ['spiffe://acme.example/user/alice'],
}

/** The identity part of a background process that does nothing. */
export function fakeLoginApi(answer: Answer, identity = someIdentity, logout = someLogout): LoginApi {
  return {
    login: (request) => answer('login', identity, request),
    logout: (request) => answer('logout', logout, request),
    whoami: () => answer('whoami', identity),
  }
}
