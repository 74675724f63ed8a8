import { NsmError } from './errors.ts'

/** Throws `USAGE` on every other system; `what` is said of, as in "tunnels work". */
export function requireLinux(what: string, platform: string = process.platform): void {
  if (platform === 'linux') return
  throw new NsmError('USAGE', `${what} on Linux only, and this is ${platform}`, 'use a Linux machine, VM or container')
}
