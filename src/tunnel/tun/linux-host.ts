import {
  addressBytes,
  addressFromBytes,
  familyBits,
  formatAddress,
  parseAddress,
  parseInterfaceAddress,
} from '../../base/ip.ts'
import { errno } from '../sys/errno.ts'
import {
  askKernel,
  attribute,
  changeRequest,
  joinBytes,
  type NetlinkRequest,
  NLM_F_DUMP,
  number32,
  readAttributes,
  readNumber32,
} from '../sys/netlink.ts'
import { AF_INET, AF_INET6, systemFamily } from '../sys/socket-numbers.ts'
import type { HostNetwork, Route } from './host-network.ts'
import type { Change } from './host-plan.ts'
import { bringUp, deleteLink, findLink, type Link, readLinks } from './linux-link.ts'
import { changeTableRoute } from './linux-table.ts'

/** Addresses, routes and interfaces of this network namespace, by rtnetlink. */
export function readNetwork(): HostNetwork {
  const links = readLinks()
  const names = new Map(links.map((link) => [link.index, link.name]))
  return {
    interfaceNames: links.map((link) => link.name),
    addresses: dump(RTM_GETADDR).flatMap((body) => readAddress(body, names)),
    routes: dump(RTM_GETROUTE).flatMap((body) => readRoute(body, names)),
  }
}

/** Makes one change; gives 0 or an error number. */
export function applyChange(interfaceName: string, change: Change): number {
  if (change.kind === 'link') return bringUp(interfaceName, change.mtuBytes)
  const link = findLink(interfaceName)
  if (!link) return errno.ENODEV
  if (change.kind === 'address') return askKernel(addressRequest(link, change)).error
  return changeTableRoute({ prefix: change.prefix, toIndex: link.index }, change.add)
}

/** Removes an interface with its addresses and routes; gives 0 or an error number. */
export function deleteInterface(interfaceName: string): number {
  return deleteLink(interfaceName)
}

/** Which way packets to an address leave; undefined when none is known. */
export function lookUpRoute(address: string) {
  const to = parseAddress(address)
  const head = Uint8Array.of(systemFamily(to.family), familyBits[to.family], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
  const body = joinBytes(head, attribute(RTA_DST, addressBytes(to)))
  const [found] = askKernel({ type: RTM_GETROUTE, flags: 0, body }).bodies
  if (!found) return undefined
  const attributes = readAttributes(found, routeHeaderBytes)
  const link = readLinks().find(({ index }) => index === readNumber32(attributes.get(RTA_OIF)))
  const source = attributes.get(RTA_PREFSRC)
  if (!link || !source) return undefined
  const pathMtu = readNumber32(readAttributes(attributes.get(RTA_METRICS) ?? new Uint8Array(), 0).get(RTAX_MTU))
  return {
    interfaceName: link.name,
    sourceAddress: formatAddress(addressFromBytes(source)),
    mtuBytes: pathMtu === undefined ? link.mtuBytes : Math.min(pathMtu, link.mtuBytes),
  }
}

/** Routes are listed one by one, so the address brings none of its own; IPv6 is usable at once, without detection. */
function addressRequest(link: Link, change: Change & { kind: 'address' }): NetlinkRequest {
  const { address, length } = parseInterfaceAddress(change.prefix)
  const head = Uint8Array.of(systemFamily(address.family), length, 0, 0)
  const raw = addressBytes(address)
  const flags = IFA_F_NOPREFIXROUTE | (address.family === 6 ? IFA_F_NODAD : 0)
  const attributes = [attribute(IFA_LOCAL, raw), attribute(IFA_ADDRESS, raw), attribute(IFA_FLAGS, number32(flags))]
  const body = joinBytes(head, number32(link.index), ...attributes)
  return changeRequest({ add: RTM_NEWADDR, remove: RTM_DELADDR }, change.add, body)
}

function dump(type: number): readonly Uint8Array[] {
  return askKernel({ type, flags: NLM_F_DUMP, body: new Uint8Array(routeHeaderBytes) }).bodies
}

function readAddress(body: Uint8Array, names: ReadonlyMap<number, string>) {
  const attributes = readAttributes(body, addressHeaderBytes)
  const raw = attributes.get(IFA_LOCAL) ?? attributes.get(IFA_ADDRESS)
  const interfaceName = names.get(readNumber32(body.subarray(4, 8)) ?? 0)
  if (!raw || !interfaceName) return []
  return [{ interfaceName, prefix: `${formatAddress(addressFromBytes(raw))}/${body[1] ?? 0}` }]
}

/** Unicast routes that leave through an interface, of any table but the one of own addresses. */
function readRoute(body: Uint8Array, names: ReadonlyMap<number, string>): Route[] {
  const family = body[0] === AF_INET ? 4 : body[0] === AF_INET6 ? 6 : undefined
  const cloned = ((readNumber32(body.subarray(8, 12)) ?? 0) & RTM_F_CLONED) !== 0
  if (!family || cloned || body[7] !== RTN_UNICAST || body[4] === RT_TABLE_LOCAL) return []
  const attributes = readAttributes(body, routeHeaderBytes)
  const interfaceName = names.get(readNumber32(attributes.get(RTA_OIF)) ?? 0)
  if (!interfaceName) return []
  const to = attributes.get(RTA_DST) ?? new Uint8Array(familyBits[family] / 8)
  const gateway = attributes.get(RTA_GATEWAY)
  return [
    {
      interfaceName,
      prefix: `${formatAddress(addressFromBytes(to))}/${body[1] ?? 0}`,
      gateway: gateway && formatAddress(addressFromBytes(gateway)),
    },
  ]
}

/** [Linux include/uapi/linux/rtnetlink.h, if_addr.h] */
const RTM_NEWADDR = 20
const RTM_DELADDR = 21
const RTM_GETADDR = 22
const RTM_GETROUTE = 26
const IFA_ADDRESS = 1
const IFA_LOCAL = 2
const IFA_FLAGS = 8
const IFA_F_NODAD = 0x02
const IFA_F_NOPREFIXROUTE = 0x200
const RTA_DST = 1
const RTA_OIF = 4
const RTA_GATEWAY = 5
const RTA_PREFSRC = 7
const RTA_METRICS = 8
const RTAX_MTU = 2
const RT_TABLE_LOCAL = 255
const RTN_UNICAST = 1
const RTM_F_CLONED = 0x200
const addressHeaderBytes = 8
const routeHeaderBytes = 12
