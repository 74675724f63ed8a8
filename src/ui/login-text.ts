import { printable } from '../base/printable.ts'
import type { IdentityResult, LoginView } from '../daemon/login-protocol.ts'

/** What a person is asked to do; the code is compared with the one on the page. */
export function loginPrompt({ page, code }: { readonly page: string; readonly code?: string }): string {
  if (code === undefined) return `open this page in a browser of this machine:\n  ${page}`
  return `open this page on any device, and confirm the code only if it is this one:\n  ${page}\n  ${code}`
}

/** The identity in one line, its end as RFC 3339; a line on the login behind it. */
export function identityText({ spiffeId, notAfterMs = 0, login }: IdentityResult, nowMs: number): string {
  if (spiffeId === undefined) return '# this machine has no identity: nsm login, or nsm connect --join FILE'
  const state = notAfterMs > nowMs ? 'valid until' : 'expired since'
  const identity = `${spiffeId}  ${state} ${new Date(notAfterMs).toISOString()}`
  return login ? `${identity}\n# ${printable(loginText(login))}` : identity
}

function loginText({ issuer, store, reasons, refused }: LoginView): string {
  const why = reasons.length > 0 ? ` (${reasons.join('; ')})` : ''
  if (refused !== undefined) return `${issuer} renews the login no more (${refused}): log in again with nsm login`
  if (store === 'none') return `${issuer}: the login ends with its session, no refresh token is kept${why}`
  return `${issuer}: the login renews itself, its refresh token is in the ${placeNames[store]}${why}`
}

const placeNames = { keychain: 'keychain', 'encrypted-file': 'encrypted file', file: 'plain file' } as const
