import {
  addressBytes,
  addressFromBytes,
  familyBits,
  formatAddress,
  type IpFamily,
  parseInterfaceAddress,
} from '../../base/ip.ts'
import { errno } from '../sys/errno.ts'
import {
  askKernel,
  attribute,
  changeRequest,
  joinBytes,
  NLM_F_DUMP,
  number32,
  readAttributes,
  readNumber32,
} from '../sys/netlink.ts'
import { systemFamily } from '../sys/socket-numbers.ts'
import { defaultTableNumber, tableNumber } from './host-network.ts'
import { tableOf } from './host-plan.ts'

/* Routes of tunnels are in a table of their own, which is asked before the main one: no route that the machine learns
 * later, such as DHCP's, takes a service's packets out of its tunnel [security E6]. Below each route is one that says
 * "unreachable": when the tunnel goes, its packets do not find another way [security E7]. */

/** What a route of our table does with a packet. */
export interface TableRoute {
  readonly prefix: string
  /** Index of the interface it leaves by; 'nowhere' for a guard. */
  readonly toIndex: number | 'nowhere'
}

/**
 * Adds or removes a route of our table; the rule that leads there comes with the first and goes with the last one. Gives 0
 * or an error number. Two interfaces may have the same prefix: the older one keeps the packets.
 */
export function changeTableRoute(route: TableRoute, add: boolean): number {
  const { family } = parseInterfaceAddress(route.prefix).address
  const ruleError = add ? changeRules(route, true) : 0
  const number = ruleError || changeRoute(route, add)
  if (!add) dropUnusedRules(family)
  return number
}

function changeRoute(route: TableRoute, add: boolean): number {
  const { address, length } = parseInterfaceAddress(route.prefix)
  const index = route.toIndex === 'nowhere' ? undefined : route.toIndex
  const scope = address.family === 4 && index !== undefined ? RT_SCOPE_LINK : 0
  const kind = index === undefined ? RTN_UNREACHABLE : RTN_UNICAST
  const head = Uint8Array.of(systemFamily(address.family), length, 0, 0, RT_TABLE_UNSPEC, RTPROT_STATIC, scope, kind)
  const body = joinBytes(
    head,
    number32(0),
    ...(length === 0 ? [] : [attribute(RTA_DST, addressBytes(address))]),
    attribute(RTA_TABLE, number32(tableOf(route.prefix))),
    attribute(RTA_PRIORITY, number32(index ?? lastMetric)),
    ...(index === undefined ? [] : [attribute(RTA_OIF, number32(index))]),
  )
  return askKernel(changeRequest({ add: RTM_NEWROUTE, remove: RTM_DELROUTE }, add, body)).error
}

/** The rules that lead packets to a route's table; gives 0 or an error number. */
function changeRules(route: TableRoute, add: boolean): number {
  const { family } = parseInterfaceAddress(route.prefix).address
  const table = tableOf(route.prefix)
  const mainFirst = table === defaultTableNumber ? changeMainRule(family, add) : 0
  return mainFirst || changeRule(family, table, add)
}

/** The main table, without its default route, right before ours for default routes. */
function changeMainRule(family: IpFamily, add: boolean): number {
  const head = Uint8Array.of(systemFamily(family), 0, 0, 0, RT_TABLE_MAIN, 0, 0, FR_ACT_TO_TBL)
  const body = joinBytes(
    head,
    number32(0),
    attribute(FRA_PRIORITY, number32(defaultTableNumber - 1)),
    attribute(FRA_SUPPRESS_PREFIXLEN, number32(0)),
    attribute(FRA_TABLE, number32(RT_TABLE_MAIN)),
  )
  return askForRule(body, add)
}

/** Leads packets without our mark through a table of ours before the main one, or ends that; gives 0 or an error number. */
function changeRule(family: IpFamily, table: number, add: boolean): number {
  const head = Uint8Array.of(systemFamily(family), 0, 0, 0, RT_TABLE_UNSPEC, 0, 0, FR_ACT_TO_TBL)
  const body = joinBytes(
    head,
    number32(FIB_RULE_INVERT),
    attribute(FRA_PRIORITY, number32(table)),
    attribute(FRA_FWMARK, number32(tableNumber)),
    attribute(FRA_TABLE, number32(table)),
  )
  return askForRule(body, add)
}

function askForRule(body: Uint8Array, add: boolean): number {
  const { error } = askKernel(changeRequest({ add: RTM_NEWRULE, remove: RTM_DELRULE }, add, body))
  const isDone = add ? error === errno.EEXIST : error === errno.ENOENT || error === errno.EAFNOSUPPORT
  return isDone ? 0 : error
}

/** Ends the rules of tables that have no route any more. */
export function dropUnusedRules(family: IpFamily): void {
  const { guards, tunnels } = readTables(family)
  const used = [...guards, ...tunnels].map((prefix) => tableOf(prefix))
  for (const prefix of exampleOf[family]) {
    if (!used.includes(tableOf(prefix))) changeRules({ prefix, toIndex: 'nowhere' }, false)
  }
}

/** A prefix for each of our tables. */
const exampleOf = { 4: ['0.0.0.0/0', '0.0.0.0/32'], 6: ['::/0', '::/128'] } as const

/** The guards of our tables and the prefixes that have a tunnel, by family. */
export function readTables(family: IpFamily): {
  readonly guards: readonly string[]
  readonly tunnels: readonly string[]
} {
  const head = new Uint8Array(routeHeaderBytes)
  head[0] = systemFamily(family)
  const found = { guards: [] as string[], tunnels: [] as string[] }
  for (const body of askKernel({ type: RTM_GETROUTE, flags: NLM_F_DUMP, body: head }).bodies) {
    const attributes = readAttributes(body, routeHeaderBytes)
    const prefix = `${textOf(attributes.get(RTA_DST), family)}/${body[1] ?? 0}`
    const isOurs = readNumber32(attributes.get(RTA_TABLE)) === tableOf(prefix)
    if (!isOurs || body[0] !== systemFamily(family)) continue
    if (body[7] === RTN_UNREACHABLE) found.guards.push(prefix)
    else found.tunnels.push(prefix)
  }
  return found
}

function textOf(raw: Uint8Array | undefined, family: IpFamily): string {
  return formatAddress(addressFromBytes(raw ?? new Uint8Array(familyBits[family] / 8)))
}

/** The worst there is: every other route of the prefix is taken before it. */
const lastMetric = 0xffff_ffff
/** [Linux include/uapi/linux/rtnetlink.h, fib_rules.h] */
const RTM_NEWROUTE = 24
const RTM_DELROUTE = 25
const RTM_GETROUTE = 26
export const RTM_NEWRULE = 32
export const RTM_DELRULE = 33
const RTA_DST = 1
const RTA_OIF = 4
const RTA_PRIORITY = 6
const RTA_TABLE = 15
const RT_TABLE_UNSPEC = 0
const RT_TABLE_MAIN = 254
const RTPROT_STATIC = 4
const RT_SCOPE_LINK = 253
const RTN_UNICAST = 1
const RTN_UNREACHABLE = 7
const FR_ACT_TO_TBL = 1
const FIB_RULE_INVERT = 2
const FRA_PRIORITY = 6
const FRA_FWMARK = 10
const FRA_SUPPRESS_PREFIXLEN = 14
const FRA_TABLE = 15
const routeHeaderBytes = 12
