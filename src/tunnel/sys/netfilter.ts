import { errno, systemError } from './errno.ts'
import { libc } from './libc.ts'
import { allocateNative } from './native-buffer.ts'
import {
  AF_NETLINK,
  align,
  attribute,
  joinBytes,
  messageHeaderBytes,
  NLM_F_ACK,
  NLM_F_CREATE,
  NLMSG_ERROR,
  netlinkMessage,
} from './netlink.ts'
import { SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_RAW } from './socket-numbers.ts'

/* nf_tables by netlink, no program started: a batch of changes that the kernel makes all or none of. A table that is made
 * with the owner flag belongs to the socket and goes with it, however the process ends. */

/** One change of a batch. */
export interface FilterChange {
  /** What it does: one of `filterChange`. */
  readonly type: number
  /** The kernel's number of the table's family: 1 for both IP families, 3 for ARP. */
  readonly family: number
  readonly attributes: readonly Uint8Array[]
}

/** [Linux include/uapi/linux/netfilter/nf_tables.h] NFT_MSG_*. */
export const filterChange = { newTable: 0, deleteTable: 2, newChain: 3, newRule: 6 } as const

/** A socket to the kernel's packet filter; its tables end with it. */
export interface FilterSocket {
  /** Makes all changes or none; gives 0 or an error number. */
  apply(changes: readonly FilterChange[]): number
  close(): void
}

/** Opens a socket to the packet filter; a negative error number where the system has none. */
export function openFilter(): FilterSocket | number {
  const fd = libc().socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_NETFILTER)
  if (fd < 0) return -libc().errno()
  return { apply: (changes) => apply(fd, changes), close: () => void libc().close(fd) }
}

/** A number as nf_tables has it, in network order. */
export function big32(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setInt32(0, value)
  return bytes
}

/** An attribute that holds attributes. */
export function nested(type: number, ...inner: readonly Uint8Array[]): Uint8Array {
  return attribute(type | NLA_F_NESTED, joinBytes(...inner))
}

function apply(fd: number, changes: readonly FilterChange[]): number {
  const messages = [
    message({ type: BATCH_BEGIN, flags: 0, family: 0, body: new Uint8Array() }),
    ...changes.map(({ type, family, attributes }) => {
      const flags = NLM_F_ACK | (type === filterChange.deleteTable ? 0 : NLM_F_CREATE | NLM_F_APPEND)
      return message({ type: (NFNL_SUBSYS_NFTABLES << 8) | type, flags, family, body: joinBytes(...attributes) })
    }),
    message({ type: BATCH_END, flags: 0, family: 0, body: new Uint8Array() }),
  ]
  const bytes = joinBytes(...messages)
  const buffer = allocateNative(Math.max(bytes.length, answerBytes))
  buffer.bytes.set(bytes)
  if (libc().write(fd, buffer.address, bytes.length) < 0) return libc().errno()
  return readErrors(fd, buffer)
}

/** The kernel has answered before the write returned: the first error of all answers, 0 when every one is "done". */
function readErrors(fd: number, buffer: ReturnType<typeof allocateNative>): number {
  let first = 0
  for (;;) {
    const count = libc().read(fd, buffer.address, answerBytes)
    if (count < 0) {
      const number = libc().errno()
      if (number === errno.EINTR) continue
      if (number === errno.EAGAIN) return first
      throw systemError('the packet filter does not answer', number)
    }
    for (let at = 0; at + messageHeaderBytes + 4 <= count; at += stepOver(buffer.view.getUint32(at, true))) {
      if (buffer.view.getUint16(at + 4, true) === NLMSG_ERROR)
        first ||= -buffer.view.getInt32(at + messageHeaderBytes, true)
    }
  }
}

/** struct nfgenmsg (family, version, resource in network order), attributes. */
function message(parts: { type: number; flags: number; family: number; body: Uint8Array }): Uint8Array {
  const { type, flags, family } = parts
  const resource = family === 0 ? NFNL_SUBSYS_NFTABLES : 0
  return netlinkMessage({ type, flags, body: joinBytes(Uint8Array.of(family, 0, 0, resource), parts.body) })
}

/** A message that says it is shorter than its header must not keep us in place. */
function stepOver(bytes: number): number {
  return Math.max(messageHeaderBytes, align(bytes))
}

/** Ours: more than the answers to one batch of a connection take. */
const answerBytes = 16_384
/** [Linux include/uapi/linux/netlink.h, netfilter/nfnetlink.h] */
const NETLINK_NETFILTER = 12
const NLM_F_APPEND = 0x800
const NLA_F_NESTED = 0x8000
const NFNL_SUBSYS_NFTABLES = 10
const BATCH_BEGIN = 0x10
const BATCH_END = 0x11
