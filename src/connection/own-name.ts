import { type Clock, sleep } from '../base/clock.ts'
import { NsmError, systemCode } from '../base/errors.ts'
import type { Machine } from './machine.ts'

/** Everything the check needs. */
export interface OwnNameCheck {
  readonly machine: Pick<Machine, 'lookUp' | 'lookUpAddress'>
  readonly clock: Clock
  /** The podName label. */
  readonly name: string
  readonly zones: readonly string[]
  /** Own addresses in the tunnel, without length. */
  readonly addresses: readonly string[]
}

/**
 * Waits until names of the service are answered through the system's own path and gives the own DNS name; undefined
 * when the path works but the service has no name for this machine. Throws the reason of the signal.
 */
export async function checkOwnName(check: OwnNameCheck, signal: AbortSignal): Promise<string | undefined> {
  const stopped = aborted(signal)
  for (let attempt = 0; ; attempt++) {
    const found = await Promise.race([tryOnce(check), stopped])
    if (typeof found === 'object') return found.name
    if (found === 'unknown' && attempt >= unknownTriesMax) return undefined
    await sleep(check.clock, retryMs, signal)
  }
}

/** Ours: the first packet through a new tunnel may be lost. */
const retryMs = 100
/** Ours: after so many clear answers that there is no such name, there is none. */
const unknownTriesMax = 3

async function tryOnce(check: OwnNameCheck): Promise<{ readonly name: string } | 'unknown' | 'silent'> {
  const label = hostLabel(check.name)
  const results = await Promise.all(check.zones.map((zone) => tryName(`${label}.${zone}`, check)))
  const found = results.find((result) => typeof result === 'object')
  if (found) return found
  if (results.includes('silent')) return 'silent'
  return tryAddress(check)
}

async function tryName(name: string, check: OwnNameCheck): Promise<{ readonly name: string } | 'unknown' | 'silent'> {
  try {
    // The final dot keeps the search list out of it.
    const family = check.addresses.some((address) => !address.includes(':')) ? 4 : 6
    const addresses = await check.machine.lookUp(`${name}.`, family)
    return addresses.some((address) => check.addresses.includes(address)) ? { name } : 'unknown'
  } catch (error) {
    return systemCode(error) === 'ENOTFOUND' ? 'unknown' : 'silent'
  }
}

/** Another machine may have the wanted name; the address then tells which name is ours. */
async function tryAddress(check: OwnNameCheck): Promise<{ readonly name: string } | 'unknown'> {
  for (const address of check.addresses) {
    const name = await check.machine.lookUpAddress(address).catch(() => undefined)
    if (name !== undefined && check.zones.some((zone) => name.endsWith(`.${zone}`))) return { name }
  }
  return 'unknown'
}

/** One valid lower-case DNS label [RFC 1123 2.1]: the rule of the endpoint that gives the names. */
function hostLabel(name: string): string {
  const replaced = name.toLowerCase().replace(/[^a-z0-9]+/g, '-')
  return replaced.replace(/^-/, '').slice(0, 63).replace(/-$/, '')
}

function aborted(signal: AbortSignal): Promise<never> {
  const stopped = new Promise<never>((_, reject) => {
    const stop = () => reject(signal.reason instanceof NsmError ? signal.reason : deadline())
    if (signal.aborted) stop()
    signal.addEventListener('abort', stop, { once: true })
  })
  // An abort after the answer was found concerns nobody.
  stopped.catch(() => {})
  return stopped
}

function deadline(): NsmError {
  return new NsmError('UNREACHABLE', 'the name server of the service does not answer', 'see `nsm status`')
}
