import { NsmError } from '../base/errors.ts'
import { formatPrefix, parseInterfaceAddress, parsePrefix, prefixesOverlap, prefixOf } from '../base/ip.ts'
import type { HostNetwork } from '../tunnel/tun/host.ts'
import type { Taken } from './bounds.ts'
import { bareAddresses } from './wanted.ts'

/** What this machine depends on and no tunnel may swallow [security E3]. */
export interface Surroundings {
  readonly host: HostNetwork
  /** Interfaces of ours: what they carry is known better from `others`. */
  readonly ownInterfaceNames: readonly string[]
  /** Resolvers in use and addresses of the manager and of the endpoint outside the tunnel. */
  readonly addresses: readonly { readonly address: string; readonly what: string }[]
  /** What the other connections have. */
  readonly others: readonly Other[]
  /** The user's `--exclude-prefix`. */
  readonly excludePrefixes: readonly string[]
}

/** Another connection of this machine. */
export interface Other {
  readonly service: string
  readonly interfaceName: string
  /** Own addresses and everything that goes into its tunnel. */
  readonly prefixes: readonly string[]
  /** Own addresses alone. */
  readonly addresses: readonly string[]
  /** In one awareness group with the connection that is asked for. */
  readonly mayOverlap: boolean
}

/** The prefixes in use, each with who uses it; default routes and loopback are not among them. */
export function takenPrefixes(around: Surroundings): Taken[] {
  const isOther = ({ interfaceName }: { readonly interfaceName: string }) =>
    interfaceName !== 'lo' && !around.ownInterfaceNames.includes(interfaceName)
  const routes = around.host.routes.filter(isOther)
  return [
    ...around.host.addresses
      .filter(isOther)
      .map(({ interfaceName, prefix }) => ({ prefix: maskedText(prefix), by: `address on ${interfaceName}` })),
    ...routes
      .filter(({ prefix }) => !isDefault(prefix))
      .map(({ interfaceName, prefix }) => routeTaken(prefix, `route on ${interfaceName}`)),
    ...routes.flatMap(({ prefix, gateway, interfaceName }) => {
      if (gateway === undefined) return []
      const by = `gateway on ${interfaceName}`
      return [isDefault(prefix) ? { prefix: maskedText(gateway), by } : routeTaken(gateway, by)]
    }),
    ...around.addresses.map(({ address, what }) => ({ prefix: maskedText(address), by: what })),
    ...around.others.flatMap(otherTaken),
    ...around.excludePrefixes.map((prefix) => ({ prefix: maskedText(prefix), by: 'excluded by the user' })),
  ]
}

/** The same as plain prefixes for the request, so that the endpoint can avoid them before an address exists. */
export function excludedPrefixes(taken: readonly Taken[]): string[] {
  return [...new Set(taken.map(({ prefix }) => prefix))].slice(0, excludedPrefixesMax)
}

/** Without the routes that came after a connection had its prefixes: those keep their packets [security E6]. */
export function withoutLaterRoutes(taken: readonly Taken[], claimed: readonly string[]): Taken[] {
  const own = claimed.map(parsePrefix)
  return taken.filter(({ prefix, isOnlyRoute }) => {
    const other = parsePrefix(prefix)
    return !isOnlyRoute || !own.some((one) => prefixesOverlap(one, other))
  })
}

/** An endpoint that finds no room beside what is in use names only prefixes; this says whose they are on this machine. */
export function nameOwners(error: NsmError, taken: readonly Taken[]): NsmError {
  const named = taken.filter(({ prefix }) => error.message.includes(prefix))
  if (error.code !== 'CONFLICT' || named.length === 0) return error
  const owners = named.map(({ prefix, by }) => `${prefix} is used here (${by})`)
  return new NsmError(
    'CONFLICT',
    `${error.message}; ${[...new Set(owners)].join('; ')}`,
    'free the one on this machine, or ask for a service with other prefixes',
    { cause: error },
  )
}

/** Ours [security C7]: the other side reads at most this many. */
const excludedPrefixesMax = 1_024

function otherTaken({ service, mayOverlap, prefixes, addresses }: Other): Taken[] {
  const by = `network service ${service}`
  if (!mayOverlap) return prefixes.map((prefix) => ({ prefix: maskedText(prefix), by }))
  return bareAddresses(addresses).map((address) => ({ prefix: maskedText(address), by, mayOverlap }))
}

function routeTaken(prefix: string, by: string): Taken {
  return { prefix: maskedText(prefix), by, isOnlyRoute: true }
}

function isDefault(prefix: string): boolean {
  return prefix === 'default' || prefix.endsWith('/0')
}

function maskedText(prefix: string): string {
  const { address, length } = parseInterfaceAddress(prefix)
  return formatPrefix(prefixOf(address, length))
}
