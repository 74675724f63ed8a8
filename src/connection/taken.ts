import { NsmError } from '../base/errors.ts'
import { formatPrefix, parseInterfaceAddress, prefixOf } from '../base/ip.ts'
import type { HostNetwork } from '../tunnel/tun/host.ts'
import type { Taken } from './bounds.ts'

/** What this machine depends on and no tunnel may swallow [security E3]. */
export interface Surroundings {
  readonly host: HostNetwork
  /** Interfaces of ours: what they carry is known better from `others`. */
  readonly ownInterfaceNames: readonly string[]
  /** Resolvers in use and addresses of the manager and of the endpoint outside the tunnel. */
  readonly addresses: readonly { readonly address: string; readonly what: string }[]
  /** Prefixes of the other connections. */
  readonly others: readonly { readonly service: string; readonly prefixes: readonly string[] }[]
  /** The user's `--exclude-prefix`. */
  readonly excludePrefixes: readonly string[]
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
      .map(({ interfaceName, prefix }) => ({ prefix: maskedText(prefix), by: `route on ${interfaceName}` })),
    ...routes.flatMap(({ gateway, interfaceName }) =>
      gateway ? [{ prefix: maskedText(gateway), by: `gateway on ${interfaceName}` }] : [],
    ),
    ...around.addresses.map(({ address, what }) => ({ prefix: maskedText(address), by: what })),
    ...around.others.flatMap(({ service, prefixes }) =>
      prefixes.map((prefix) => ({ prefix: maskedText(prefix), by: `network service ${service}` })),
    ),
    ...around.excludePrefixes.map((prefix) => ({ prefix: maskedText(prefix), by: 'excluded by the user' })),
  ]
}

/** The same as plain prefixes for the request, so that the endpoint can avoid them before an address exists. */
export function excludedPrefixes(taken: readonly Taken[]): string[] {
  return [...new Set(taken.map(({ prefix }) => prefix))].slice(0, excludedPrefixesMax)
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

function isDefault(prefix: string): boolean {
  return prefix === 'default' || prefix.endsWith('/0')
}

function maskedText(prefix: string): string {
  const { address, length } = parseInterfaceAddress(prefix)
  return formatPrefix(prefixOf(address, length))
}
