import type { IdentityResult } from '../daemon/login-protocol.ts'

/** What a person is asked to do; the code is compared with the one on the page. */
export function loginPrompt({ page, code }: { readonly page: string; readonly code?: string }): string {
  if (code === undefined) return `open this page in a browser of this machine:\n  ${page}`
  return `open this page on any device, and confirm the code only if it is this one:\n  ${page}\n  ${code}`
}

/** The identity in one line, its end as RFC 3339. */
export function identityText({ spiffeId, notAfterMs = 0 }: IdentityResult, nowMs: number): string {
  if (spiffeId === undefined) return '# this machine has no identity: nsm login, or nsm connect --join FILE'
  const state = notAfterMs > nowMs ? 'valid until' : 'expired since'
  return `${spiffeId}  ${state} ${new Date(notAfterMs).toISOString()}`
}
