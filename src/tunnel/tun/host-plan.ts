import { formatPrefix, parseInterfaceAddress, parsePrefix, prefixesOverlap, sameAddress } from '../../base/ip.ts'
import { defaultTableNumber, type HostNetwork, type InterfaceSettings, tableNumber } from './host-network.ts'

/** One change to an interface of this machine. */
export type Change =
  | { readonly kind: 'link'; readonly mtuBytes: number; readonly beforeBytes: number }
  | { readonly kind: 'address'; readonly add: boolean; readonly prefix: string }
  | { readonly kind: 'route'; readonly add: boolean; readonly prefix: string }

/** The changes from one state of an interface to another, in the order in which none fails: new before old. */
export function planChanges(before: InterfaceSettings, after: InterfaceSettings): Change[] {
  const missing = (all: readonly string[], from: readonly string[]) => all.filter((prefix) => !from.includes(prefix))
  const change = (kind: 'address' | 'route', add: boolean) => (prefix: string) => ({ kind, add, prefix })
  const mtu = { kind: 'link', mtuBytes: after.mtuBytes, beforeBytes: before.mtuBytes } as const
  return [
    ...(before.mtuBytes === after.mtuBytes ? [] : [mtu]),
    ...missing(after.addresses, before.addresses).map(change('address', true)),
    ...missing(after.routes, before.routes).map(change('route', true)),
    ...missing(before.routes, after.routes).map(change('route', false)),
    ...missing(before.addresses, after.addresses).map(change('address', false)),
  ]
}

/** The change that takes this one back; undefined when there was no state before. */
export function inverseOf(change: Change): Change | undefined {
  if (change.kind !== 'link') return { ...change, add: !change.add }
  if (change.beforeBytes === 0) return undefined
  return { kind: 'link', mtuBytes: change.beforeBytes, beforeBytes: change.mtuBytes }
}

/** The command that would do the same by hand. */
export function commandOf(interfaceName: string, change: Change): string {
  if (change.kind === 'link') return `ip link set ${interfaceName} up mtu ${change.mtuBytes}`
  const verb = change.add ? 'add' : 'del'
  const where = change.kind === 'route' ? ` table ${tableOf(change.prefix)}` : ''
  return `ip ${change.kind} ${verb} ${change.prefix} dev ${interfaceName}${where}`
}

/** The table of tunnels that a route belongs to. */
export function tableOf(prefix: string): typeof tableNumber | typeof defaultTableNumber {
  return parsePrefix(prefix).length === 0 ? defaultTableNumber : tableNumber
}

/** What of `after` is new: only that is looked at for conflicts, what is there already has its place. */
export function addedTo(before: InterfaceSettings, after: InterfaceSettings): InterfaceSettings {
  const added = (list: 'addresses' | 'routes') => after[list].filter((prefix) => !before[list].includes(prefix))
  return { ...after, addresses: added('addresses'), routes: added('routes') }
}

/** Names both sides of the first thing that is already there on another interface; undefined when all is free. */
export function findConflict(settings: InterfaceSettings, network: HostNetwork): string | undefined {
  const passed = [settings.interfaceName, ...(settings.mayOverlap ?? [])]
  const others = {
    addresses: network.addresses.filter((entry) => entry.interfaceName !== settings.interfaceName),
    routes: network.routes.filter((entry) => !passed.includes(entry.interfaceName)),
  }
  for (const prefix of settings.addresses) {
    const { address } = parseInterfaceAddress(prefix)
    const taken = others.addresses.find((entry) => sameAddress(parseInterfaceAddress(entry.prefix).address, address))
    if (taken)
      return `${prefix} for ${settings.interfaceName} is the address of ${taken.interfaceName} (${taken.prefix})`
  }
  for (const prefix of settings.routes) {
    const taken = [...others.addresses, ...others.routes].find((entry) => collides(entry.prefix, prefix))
    if (taken)
      return `${prefix} via ${settings.interfaceName} overlaps ${formatPrefix(parsePrefix(taken.prefix))} on ${taken.interfaceName}`
  }
  return undefined
}

/** A default route gives way to every more exact one, theirs and ours, so it is no conflict. */
function collides(theirs: string, ours: string): boolean {
  const prefix = parsePrefix(theirs)
  const own = parsePrefix(ours)
  return prefix.length > 0 && own.length > 0 && prefixesOverlap(prefix, own)
}
