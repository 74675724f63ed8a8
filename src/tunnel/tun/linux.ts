import { NsmError } from '../../base/errors.ts'
import { errno, errnoName, systemError } from '../sys/errno.ts'
import { libc } from '../sys/libc.ts'
import { allocateNative } from '../sys/native-buffer.ts'
import type { Merging } from './device.ts'
import type { TunHandle } from './linux-device.ts'
import { limitSuperPackets } from './linux-link.ts'

/** An open TUN interface: non-persistent, so it is gone when the last process that holds the descriptor is. */
export interface OpenTun extends TunHandle {
  readonly name: string
  /** Removes the interface with its addresses and routes. */
  close(): void
}

/**
 * Makes a TUN interface. Throws `CONFLICT` when the name is taken, `PERMISSION` when this process may not, `USAGE` for
 * a name the system cannot have. `superPackets: false` opens it for single packets only, as an old kernel would.
 */
export function openTun(name: string, options: { readonly superPackets?: boolean } = {}): OpenTun {
  if (!interfaceName.test(name)) throw new NsmError('USAGE', `"${name}" is no interface name`, 'use 1 to 15 letters')
  const fd = libc().open(tunNode, O_RDWR | O_NONBLOCK | O_CLOEXEC)
  if (fd < 0) throw openError(libc().errno())
  try {
    const vnetHeader = attachInterface(fd, name, options.superPackets !== false)
    const merging = vnetHeader ? acceptSuperPackets(fd) : { tcp: false, udp: false }
    if (vnetHeader) limitSuperPackets(name)
    return { name, fd, vnetHeader, merging, close: () => void libc().close(fd) }
  } catch (error) {
    libc().close(fd)
    throw error
  }
}

/** Names the interface and tells whether packets have a virtio_net_hdr in front, hence may be super-packets. */
function attachInterface(fd: number, name: string, superPackets: boolean): boolean {
  const request = allocateNative(40)
  new TextEncoder().encodeInto(name, request.bytes)
  request.view.setUint16(16, IFF_TUN | IFF_NO_PI | (superPackets ? IFF_VNET_HDR : 0), true)
  if (libc().ioctl(fd, TUNSETIFF, request.address) >= 0) return superPackets
  const number = libc().errno()
  if (superPackets && number === errno.EINVAL) return attachInterface(fd, name, false)
  throw nameError(name, number)
}

/** Without USO the UDP senders of this machine are not batched; TCP still is. */
function acceptSuperPackets(fd: number): Merging {
  const udp = libc().ioctl(fd, TUNSETOFFLOAD, TCP_OFFLOADS | UDP_OFFLOADS) >= 0
  return { udp, tcp: udp || libc().ioctl(fd, TUNSETOFFLOAD, TCP_OFFLOADS) >= 0 }
}

function openError(number: number): NsmError {
  const what = `cannot open ${tunNode}`
  if (number !== errno.ENOENT && number !== errno.ENODEV) {
    return systemError(what, number, 'run it as root, or give the process CAP_NET_ADMIN and a /dev/net/tun it may open')
  }
  const next =
    'make the device: mkdir -p /dev/net && mknod /dev/net/tun c 10 200 (in a container: --device /dev/net/tun)'
  return new NsmError('PERMISSION', `${what}: ${errnoName(number)}`, next)
}

function nameError(name: string, number: number): NsmError {
  if (number === errno.EBUSY || number === errno.EEXIST) {
    return new NsmError(
      'CONFLICT',
      `the interface name ${name} is taken`,
      `remove it (ip link del ${name}) or choose another`,
    )
  }
  return systemError(`cannot make the interface ${name}`, number)
}

const tunNode = '/dev/net/tun'
/** [Linux include/uapi/linux/if.h] IFNAMSIZ is 16 with the final zero. */
const interfaceName = /^(?!\.{1,2}$)[A-Za-z0-9_.-]{1,15}$/
const O_RDWR = 0o2
const O_NONBLOCK = 0o4000
const O_CLOEXEC = 0o2000000
/** [Linux include/uapi/linux/if_tun.h] */
const IFF_TUN = 0x0001
const IFF_NO_PI = 0x1000
const IFF_VNET_HDR = 0x4000
const TUNSETIFF = 0x400454ca
const TUNSETOFFLOAD = 0x400454d0
/** TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 */
const TCP_OFFLOADS = 0x01 | 0x02 | 0x04
/** TUN_F_USO4 | TUN_F_USO6, Linux 6.2 and later. */
const UDP_OFFLOADS = 0x20 | 0x40
