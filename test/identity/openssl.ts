import { execFileSync } from 'node:child_process'

/** Runs the openssl program, an implementation of X.509 that shares nothing with ours but the standard. */
export function openssl(args: readonly string[], input?: Uint8Array): string {
  return execFileSync('openssl', [...args], { input: input ?? '', encoding: 'utf8', stdio: ['pipe', 'pipe', 'pipe'] })
}

/** Why there is no cross-check here; empty when openssl is installed. */
export const opensslMissing: string = (() => {
  try {
    openssl(['version'])
    return ''
  } catch {
    return 'skipped, needs the openssl program'
  }
})()
