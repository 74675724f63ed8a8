import { errno, systemError } from '../sys/errno.ts'
import { askKernel, attribute, joinBytes, NLM_F_DUMP, number32, readAttributes, textAttribute } from '../sys/netlink.ts'
import { AF_INET6 } from '../sys/socket-numbers.ts'

/** One network interface. */
export interface Link {
  readonly index: number
  readonly name: string
  readonly mtuBytes: number
}

/** All network interfaces of this network namespace. */
export function readLinks(): Link[] {
  return askKernel({ type: RTM_GETLINK, flags: NLM_F_DUMP, body: header(0) }).bodies.map(readLink)
}

/** The interface of this name; undefined when there is none. */
export function findLink(name: string): Link | undefined {
  const answer = askKernel({
    type: RTM_GETLINK,
    flags: 0,
    body: joinBytes(header(0), textAttribute(IFLA_IFNAME, name)),
  })
  const [body] = answer.bodies
  if (answer.error !== 0 && answer.error !== errno.ENODEV) throw systemError(`cannot look at ${name}`, answer.error)
  return body && readLink(body)
}

/**
 * Keeps super-packets of this interface so small that one read is one segmented send of at most 64 segments and 65,000
 * bytes, makes its queue long enough, and keeps the kernel from making up an IPv6 address of its own.
 */
export function limitSuperPackets(name: string): void {
  const limits = [attribute(IFLA_GSO_MAX_SEGS, number32(44)), attribute(IFLA_GSO_MAX_SIZE, number32(60_244))]
  change(name, header(0), [...limits, attribute(IFLA_TXQLEN, number32(queuedPackets))])
  const mode = attribute(AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, Uint8Array.of(GENERATE_NONE)))
  change(name, header(0), [attribute(IFLA_AF_SPEC, mode)])
}

/** Sets the MTU and brings the interface up; gives 0 or an error number. */
export function bringUp(name: string, mtuBytes: number): number {
  return change(name, header(IFF_UP), [attribute(IFLA_MTU, number32(mtuBytes))])
}

/** Removes the interface; gives 0 or an error number. */
export function deleteLink(name: string): number {
  return askKernel({ type: RTM_DELLINK, flags: 0, body: joinBytes(header(0), textAttribute(IFLA_IFNAME, name)) }).error
}

function change(name: string, head: Uint8Array, attributes: readonly Uint8Array[]): number {
  return askKernel({
    type: RTM_NEWLINK,
    flags: 0,
    body: joinBytes(head, textAttribute(IFLA_IFNAME, name), ...attributes),
  }).error
}

/** struct ifinfomsg: family, type, index, flags, mask of changed flags. */
function header(flags: number): Uint8Array {
  return joinBytes(new Uint8Array(8), number32(flags), number32(flags))
}

function readLink(body: Uint8Array): Link {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength)
  const found = readAttributes(body, 16)
  const mtu = found.get(IFLA_MTU)
  return {
    index: view.getInt32(4, true),
    name: new TextDecoder().decode(found.get(IFLA_IFNAME)).replace(/\0.*$/s, ''),
    mtuBytes: mtu ? new DataView(mtu.buffer, mtu.byteOffset).getUint32(0, true) : 0,
  }
}

/**
 * Ours: 20 ms of 1 Gbit/s in packets of 1,400 bytes, which outlasts the packet worker's wait for a processor. Linux's own
 * 500 lost up to a tenth of them there. TCP bounds its share of a queue itself.
 */
const queuedPackets = 2_000
/** [Linux include/uapi/linux/rtnetlink.h, if_link.h] */
const RTM_NEWLINK = 16
const RTM_DELLINK = 17
const RTM_GETLINK = 18
const IFLA_IFNAME = 3
const IFLA_MTU = 4
const IFLA_TXQLEN = 13
const IFLA_AF_SPEC = 26
const IFLA_GSO_MAX_SEGS = 40
const IFLA_GSO_MAX_SIZE = 41
const IFLA_INET6_ADDR_GEN_MODE = 8
const GENERATE_NONE = 1
const IFF_UP = 1
