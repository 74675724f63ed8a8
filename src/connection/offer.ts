import { NsmError } from '../base/errors.ts'
import { publicKeyOf } from '../tunnel/wireguard/keys.ts'
import type { Machine } from './machine.ts'
import type { Offer } from './request.ts'
import type { Wanted } from './wanted.ts'

/** Ours: MTU inside a tunnel when the path does not say less [nsm-protocol 7.6]. */
const tunnelMtuMaxBytes = 1_420
/** [WG 5.4.6] Outer IPv4 or IPv6, UDP and WireGuard headers. */
const overheadBytes = { 4: 60, 6: 80 } as const
/** [NSM sdk-vpp wireguard] Port that peers inside a cluster let through. */
const preferredPort = 51_820

/**
 * Our side of a tunnel towards a manager. `listenPort` is the port of an earlier offer, 0 for none: it stays the same.
 * Throws `UNREACHABLE` without a route to the manager.
 */
export async function makeOffer(parts: {
  readonly machine: Pick<Machine, 'routeTo' | 'freeUdpPort'>
  readonly managerAddress: string
  readonly wanted: Pick<Wanted, 'mtuBytes'>
  readonly privateKey: Uint8Array
  readonly listenPort: number
}): Promise<Offer> {
  const { machine, managerAddress, wanted } = parts
  const route = await machine.routeTo(managerAddress)
  if (!route) {
    throw new NsmError('UNREACHABLE', `no route to the manager at ${managerAddress}`, 'check the network')
  }
  const outer = overheadBytes[route.sourceAddress.includes(':') ? 6 : 4]
  return {
    sourceAddress: route.sourceAddress,
    listenPort: parts.listenPort || (await machine.freeUdpPort(preferredPort)),
    publicKey: publicKeyOf(parts.privateKey),
    mtuBytes: wanted.mtuBytes ?? Math.min(tunnelMtuMaxBytes, route.mtuBytes - outer),
  }
}
