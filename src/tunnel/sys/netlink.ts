import { errno, systemError } from './errno.ts'
import { libc } from './libc.ts'
import { allocateNative } from './native-buffer.ts'
import { SOCK_CLOEXEC, SOCK_RAW } from './socket-numbers.ts'

/** One rtnetlink request: message type, flags besides "request", and its body (header structure and attributes). */
export interface NetlinkRequest {
  readonly type: number
  readonly flags: number
  readonly body: Uint8Array
}

/** What the kernel answered: 0 or an error number, and the body of each message. */
export interface NetlinkAnswer {
  readonly error: number
  readonly bodies: readonly Uint8Array[]
}

/** Asks the kernel and waits for its answer; some 20 us, no program started. [RFC 3549] */
export function askKernel(request: NetlinkRequest): NetlinkAnswer {
  const fd = libc().socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0)
  if (fd < 0) throw systemError('cannot ask the kernel about the network', libc().errno())
  try {
    const buffer = allocateNative(answerBytes)
    const message = netlinkMessage({ ...request, flags: request.flags | NLM_F_ACK })
    buffer.bytes.set(message)
    if (libc().write(fd, buffer.address, message.length) < 0) return { error: libc().errno(), bodies: [] }
    return readAnswer(() => {
      const count = libc().read(fd, buffer.address, answerBytes)
      return count < 0 ? -libc().errno() : buffer.bytes.subarray(0, count)
    })
  } finally {
    libc().close(fd)
  }
}

/** A request as it is sent: struct nlmsghdr and the body. [RFC 3549 2.2] */
export function netlinkMessage({ type, flags, body }: NetlinkRequest): Uint8Array {
  const bytes = new Uint8Array(messageHeaderBytes + body.length)
  const view = viewOf(bytes)
  view.setUint32(0, bytes.length, true)
  view.setUint16(4, type, true)
  view.setUint16(6, flags | NLM_F_REQUEST, true)
  view.setUint32(8, 1, true)
  bytes.set(body, messageHeaderBytes)
  return bytes
}

/** A request that makes something new, or the one that removes it. */
export function changeRequest(
  types: { readonly add: number; readonly remove: number },
  add: boolean,
  body: Uint8Array,
): NetlinkRequest {
  return add ? { type: types.add, flags: NLM_F_CREATE | NLM_F_EXCL, body } : { type: types.remove, flags: 0, body }
}

/** One attribute: length, type, value, padded to 4 bytes. */
export function attribute(type: number, value: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4 + align(value.length))
  const view = new DataView(bytes.buffer)
  view.setUint16(0, 4 + value.length, true)
  view.setUint16(2, type, true)
  bytes.set(value, 4)
  return bytes
}

/** A text attribute. */
export function textAttribute(type: number, value: string): Uint8Array {
  return attribute(type, new TextEncoder().encode(`${value}\0`))
}

/** The attributes that follow the header structure of a message body, by type. */
export function readAttributes(body: Uint8Array, headerBytes: number): Map<number, Uint8Array> {
  const view = viewOf(body)
  const found = new Map<number, Uint8Array>()
  for (let at = headerBytes; at + 4 <= body.length; ) {
    const bytes = view.getUint16(at, true)
    if (bytes < 4 || at + bytes > body.length) break
    found.set(view.getUint16(at + 2, true) & attributeTypeMask, body.subarray(at + 4, at + bytes))
    at += align(bytes)
  }
  return found
}

/** A 32-bit number as an attribute holds it. */
export function number32(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value, true)
  return bytes
}

/** The 32-bit number that an attribute or a field of a header structure holds; undefined when it is absent. */
export function readNumber32(bytes: Uint8Array | undefined): number | undefined {
  return bytes && viewOf(bytes).getUint32(0, true)
}

/** Joins header structure and attributes to a body. */
export function joinBytes(...parts: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((total, part) => total + part.length, 0))
  let at = 0
  for (const part of parts) {
    joined.set(part, at)
    at += part.length
  }
  return joined
}

/** Reads until the end of a dump or the acknowledgement; `read` gives a datagram or a negative error number. */
function readAnswer(read: () => Uint8Array | number): NetlinkAnswer {
  const bodies: Uint8Array[] = []
  for (;;) {
    const datagram = read()
    if (typeof datagram === 'number') {
      if (datagram === -errno.EINTR) continue
      return { error: -datagram, bodies }
    }
    const view = viewOf(datagram)
    for (let at = 0; at + messageHeaderBytes <= datagram.length; ) {
      const bytes = Math.max(view.getUint32(at, true), messageHeaderBytes)
      const type = view.getUint16(at + 4, true)
      if (type === NLMSG_DONE) return { error: 0, bodies }
      if (type === NLMSG_ERROR) return { error: -view.getInt32(at + messageHeaderBytes, true), bodies }
      bodies.push(datagram.slice(at + messageHeaderBytes, at + bytes))
      at += align(bytes)
    }
  }
}

/** The next multiple of 4. */
export function align(bytes: number): number {
  return (bytes + 3) & ~3
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** [RFC 3549 2.2] */
export const messageHeaderBytes = 16
/* [Linux include/uapi/linux/netlink.h] */
export const AF_NETLINK = 16
export const NLM_F_ACK = 0x04
export const NLM_F_EXCL = 0x200
export const NLM_F_DUMP = 0x300
export const NLM_F_CREATE = 0x400
export const NLMSG_ERROR = 2
const NLM_F_REQUEST = 0x01
const NLMSG_DONE = 3
/** The two high bits of an attribute's type are flags. */
const attributeTypeMask = 0x3fff
/** Ours: more than the kernel puts into one datagram of a dump (32 KiB). */
const answerBytes = 65_536
