import type { Socket } from 'node:net'
import { loadKoffi } from '../tunnel/sys/native.ts'

/** Who is at the other end of a unix socket, as the kernel says. */
export interface PeerCredentials {
  readonly pid: number
  readonly uid: number
  readonly gid: number
}

/** The kernel's word on who connected [security L1, L2]; undefined when it cannot be had, and then nobody is trusted by uid. */
export function peerCredentials(socket: Socket): PeerCredentials | undefined {
  const fd = descriptorOf(socket)
  if (fd === undefined) return undefined
  const value = Buffer.alloc(credentialBytes)
  if (getsockopt()(fd, solSocket, soPeerCred, value, [credentialBytes]) !== 0) return undefined
  return { pid: value.readInt32LE(0), uid: value.readUInt32LE(4), gid: value.readUInt32LE(8) }
}

/** True when the kernel call is there; then the socket may be open to everybody. */
export function canReadCredentials(): boolean {
  try {
    getsockopt()
    return true
  } catch {
    return false
  }
}

/** [Linux asm-generic/socket.h] */
const solSocket = 1
/** [Linux asm-generic/socket.h] */
const soPeerCred = 17
/** [Linux socket.h struct ucred] pid, uid, gid. */
const credentialBytes = 12

type Getsockopt = (fd: number, level: number, name: number, value: Buffer, length: readonly number[]) => number
let bound: Getsockopt | undefined

function getsockopt(): Getsockopt {
  bound ??= loadKoffi()
    .load(null)
    .func('int getsockopt(int fd, int level, int name, _Out_ uint8_t *value, _Inout_ uint32_t *length)')
  return bound
}

/** Node has no public way to a socket's descriptor. */
function descriptorOf(socket: Socket): number | undefined {
  const handle: unknown = Reflect.get(socket, '_handle')
  if (typeof handle !== 'object' || handle === null || !('fd' in handle)) return undefined
  return typeof handle.fd === 'number' && handle.fd >= 0 ? handle.fd : undefined
}
