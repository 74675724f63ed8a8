import { errno, systemError } from '../sys/errno.ts'
import { libc } from '../sys/libc.ts'
import { allocateNative } from '../sys/native-buffer.ts'
import { AF_NETLINK } from '../sys/netlink.ts'
import { SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_RAW } from '../sys/socket-numbers.ts'
import type { HostChanges } from './host-network.ts'

/** Listens to what the kernel tells of interfaces, addresses and routes [RFC 3549]; a look takes a system call. */
export function openHostChanges(): HostChanges {
  const buffer = allocateNative(messageMaxBytes)
  const fd = libc().socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
  if (fd < 0) throw systemError('cannot listen to changes of the network', libc().errno())
  buffer.view.setUint16(0, AF_NETLINK, true)
  buffer.view.setUint32(8, groups, true)
  if (libc().bind(fd, buffer.address, 12) < 0) {
    const number = libc().errno()
    libc().close(fd)
    throw systemError('cannot listen to changes of the network', number)
  }
  return {
    any() {
      let found = false
      // The kernel says ENOBUFS when there was more to say than it keeps.
      while (libc().read(fd, buffer.address, messageMaxBytes) >= 0 || libc().errno() === errno.ENOBUFS) found = true
      return found
    },
    close: () => void libc().close(fd),
  }
}

/** Ours: the rest of a longer message is lost, and nobody wants it. */
const messageMaxBytes = 64
/** [Linux include/uapi/linux/rtnetlink.h] RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE. */
const groups = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
