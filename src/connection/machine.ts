import { createSocket } from 'node:dgram'
import { lookup, lookupService } from 'node:dns/promises'
import { existsSync } from 'node:fs'
import { systemClock } from '../base/clock.ts'
import { openShownTunnel } from '../tunnel/shown-tunnel.ts'
import { openFence } from '../tunnel/tun/fence.ts'
import { configureInterface, openHostChanges, readHostNetwork, routeTo, updateInterface } from '../tunnel/tun/host.ts'
import { type openTunnel, prepareTunnel } from '../tunnel/tunnels.ts'
import { openEcho } from './echo.ts'

/** What a connection does to and asks of this machine: one record of functions, so that tests can stand in for it. */
export interface Machine {
  readonly openTunnel: typeof openTunnel
  readonly prepareTunnel: typeof prepareTunnel
  readonly openEcho: typeof openEcho
  readonly readHostNetwork: typeof readHostNetwork
  readonly openHostChanges: typeof openHostChanges
  readonly configureInterface: typeof configureInterface
  readonly updateInterface: typeof updateInterface
  readonly openFence: typeof openFence
  readonly routeTo: typeof routeTo
  /** A UDP port that is free at this moment: the wanted one, or any. */
  freeUdpPort(wanted: number): Promise<number>
  /** Addresses of a family of a name by the system's own path (getaddrinfo); throws with `code` as node:dns does. */
  lookUp(name: string, family: 4 | 6): Promise<readonly string[]>
  /** The name of an address by the system's own path (getnameinfo); throws as `lookUp`. */
  lookUpAddress(address: string): Promise<string>
}

/** This machine. */
export const thisMachine: Machine = {
  openTunnel: openShownTunnel,
  prepareTunnel,
  openEcho,
  readHostNetwork,
  openHostChanges,
  configureInterface,
  updateInterface,
  openFence,
  routeTo,
  freeUdpPort: async (wanted) => (await tryOnce(wanted)) ?? (await tryBind(0)) ?? wanted,
  lookUp: async (name, family) => (await lookup(name, { all: true, family })).map(({ address }) => address),
  lookUpAddress: async (address) => (await lookupService(address, anyPort)).hostname,
}

/** getnameinfo wants a port; which one does not matter for the name. */
const anyPort = 1

/** Ours: a tunnel is opened this soon after its port was found free. */
const openedWithinMs = 2_000
/** When ports were found free, monotonic milliseconds: several connections of this process may ask at once. */
const foundFreeMs = new Map<number, number>()

async function tryOnce(port: number): Promise<number | undefined> {
  const nowMs = systemClock.monotonicMs()
  if (nowMs - (foundFreeMs.get(port) ?? Number.NEGATIVE_INFINITY) < openedWithinMs) return undefined
  foundFreeMs.set(port, nowMs)
  return tryBind(port)
}

/** Both families at once where there is IPv6, else IPv4. */
async function tryBind(port: number): Promise<number | undefined> {
  return (await tryBindFamily('udp6', port)) ?? (isIpv6There ? undefined : tryBindFamily('udp4', port))
}

/** Containers may have no IPv6 at all. */
const isIpv6There = existsSync('/proc/net/if_inet6')

function tryBindFamily(type: 'udp4' | 'udp6', port: number): Promise<number | undefined> {
  return new Promise((resolve) => {
    const socket = createSocket({ type, ipv6Only: false })
    socket.once('error', () => resolve(undefined))
    socket.bind({ port, exclusive: true }, () => {
      const bound = socket.address().port
      socket.close(() => resolve(bound))
    })
  })
}
