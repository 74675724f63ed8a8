import { isIP, isIPv4, isIPv6 } from 'node:net'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { UndoStack } from '../base/undo.ts'
import type { Journal } from '../connection/journal.ts'
import { type Machine, thisMachine } from '../connection/machine.ts'
import type { AttachedNames, Names } from '../connection/names.ts'
import { DeviceControl } from '../tunnel/device-control.ts'
import { openRestartableTunnel, type PeerConfig, type RestartableTunnel } from '../tunnel/tunnels.ts'
import { openUapi, type UapiServer } from '../tunnel/uapi-server.ts'
import type { HostPort, WgQuickFile, WgQuickPeer } from '../tunnel/wg-quick.ts'
import type { TunnelView } from './tunnel-protocol.ts'
import { tunnelView } from './tunnel-view.ts'

/** What a plain tunnel does to this machine, so that tests can stand in for it. */
export interface TunnelMachine extends Pick<Machine, 'configureInterface' | 'openFence' | 'routeTo' | 'lookUp'> {
  readonly openRestartableTunnel: typeof openRestartableTunnel
  readonly openUapi: typeof openUapi
}

/** This machine. */
export const tunnelMachine: TunnelMachine = { ...thisMachine, openRestartableTunnel, openUapi }

/** Everything a plain tunnel is made from. */
export interface TunnelParts {
  readonly machine: TunnelMachine
  readonly names: Pick<Names, 'attach' | 'detach'>
  readonly journal: Journal
  readonly clock: Clock
  readonly log: Log
}

/** A plain tunnel that is up, or was. */
export interface OpenTunnel {
  view(): Promise<TunnelView>
  /** Takes everything back; idempotent. */
  close(): Promise<void>
}

/**
 * Opens the tunnel that a file describes: interface, addresses, routes, names, control socket, in this order, each with its
 * undo. When packets end by themselves, the interface stays and its prefixes lead nowhere else, until `close`.
 */
export async function openFileTunnel(
  { interfaceName, file }: { readonly interfaceName: string; readonly file: WgQuickFile },
  parts: TunnelParts,
  signal: AbortSignal,
): Promise<OpenTunnel> {
  const undos = new UndoStack(parts.log)
  try {
    return await open({ interfaceName, file, parts, undos }, signal)
  } catch (error) {
    await undos.run()
    throw error
  }
}

interface Opening {
  readonly interfaceName: string
  readonly file: WgQuickFile
  readonly parts: TunnelParts
  readonly undos: UndoStack
}

async function open({ interfaceName, file, parts, undos }: Opening, signal: AbortSignal): Promise<OpenTunnel> {
  const { machine, clock, log, journal } = parts
  const peers = await Promise.all(file.peers.map((peer) => resolvePeer(peer, machine)))
  signal.throwIfAborted()
  const mtuBytes = file.mtuBytes ?? (await pathMtu(peers, machine))
  await journal.add(interfaceName)
  undos.push(() => journal.remove(interfaceName))
  const { privateKey, listenPort, fwmark } = file
  const config = { interfaceName, privateKey, listenPort, fwmark, mtuBytes, peers }
  const tunnel = await machine.openRestartableTunnel(config, signal)
  undos.push(() => tunnel.close())
  const routes = file.hasRoutes ? [...new Set(peers.flatMap(({ allowedPrefixes }) => allowedPrefixes))] : []
  const fence = await machine.openFence(log)
  undos.push(() => fence.close())
  await fence.set({ interfaceName, addresses: [], prefixes: routes })
  undos.push(await machine.configureInterface({ interfaceName, addresses: file.addresses, routes, mtuBytes }, log))
  await serveNames({ interfaceName, file, parts, undos })
  const control = new DeviceControl(tunnel, { privateKey, listenPort, fwmark, peers }, clock)
  const uapi = await openControl({ interfaceName, control, parts, undos })
  const facts = { interfaceName, mtuBytes, routes, addresses: file.addresses, controlSocket: uapi?.path }
  return createOpenTunnel({ tunnel, control, uapi, undos, facts, log })
}

function createOpenTunnel(opened: {
  readonly tunnel: RestartableTunnel
  readonly control: DeviceControl
  readonly uapi: UapiServer | undefined
  readonly undos: UndoStack
  readonly facts: Parameters<typeof tunnelView>[0]
  readonly log: Log
}): OpenTunnel {
  const { tunnel, control, undos, facts, log } = opened
  let failure: NsmError | undefined
  void tunnel.failed.then((error) => {
    failure = error
    log.error('tunnel failed', { interface: facts.interfaceName, code: error.code, reason: error.message })
    void opened.uapi?.close()
  })
  return {
    async view() {
      const stats = failure ? undefined : await tunnel.stats().catch(() => undefined)
      return tunnelView(facts, control.settings, { stats, error: failure })
    },
    close: undos.run,
  }
}

/** A name of a peer is looked up once, as wg(8) does. */
async function resolvePeer({ endpoint, ...peer }: WgQuickPeer, machine: TunnelMachine): Promise<PeerConfig> {
  if (!endpoint) return peer
  return { ...peer, endpoint: { address: await addressOf(endpoint, machine), port: endpoint.port } }
}

async function addressOf({ host }: HostPort, machine: TunnelMachine): Promise<string> {
  if (isIP(host)) return host
  for (const family of [6, 4] as const) {
    const addresses = await machine.lookUp(host, family).catch(() => [])
    for (const address of addresses) if (await machine.routeTo(address)) return address
  }
  throw new NsmError('UNREACHABLE', `the endpoint ${host} has no address that can be reached`, 'check the name')
}

/** Ours: WireGuard's usual limit; a file may ask for more. */
const mtuMaxBytes = 1_420
/** [WG 5.4.6] IP and UDP headers, 16 bytes of header, 16 of tag. */
const outerBytes = { 4: 60, 6: 80 } as const

async function pathMtu(peers: readonly PeerConfig[], machine: TunnelMachine): Promise<number> {
  const ways = peers.map(async ({ endpoint }) => {
    const route = endpoint && (await machine.routeTo(endpoint.address))
    return route ? route.mtuBytes - outerBytes[isIPv4(endpoint.address) ? 4 : 6] : mtuMaxBytes
  })
  return Math.min(mtuMaxBytes, ...(await Promise.all(ways)))
}

/** Only names under the file's domains go to its servers, and those are asked from the tunnel's own address. */
async function serveNames({ interfaceName, file, parts, undos }: Opening): Promise<void> {
  if (file.dnsServers.length === 0) return
  const upstreams = file.dnsServers.map((address) => {
    const own = file.addresses.map((text) => text.split('/')[0] ?? '').find((one) => isIPv6(one) === isIPv6(address))
    return { address, port: 53, ...(own === undefined ? {} : { localAddress: own }) }
  })
  const attached: AttachedNames = {
    scopes: file.dnsDomains.map((suffix) => ({ suffix, mode: 'fanout', upstreams })),
    searchDomains: file.dnsDomains,
    interfaceName,
  }
  const owner = `tunnel ${interfaceName}`
  undos.push(() => parts.names.detach(owner))
  await parts.names.attach(owner, attached)
}

/** A tunnel works without its control socket; a folder that is not ours is said, not fatal. */
async function openControl(parts: {
  readonly interfaceName: string
  readonly control: DeviceControl
  readonly parts: TunnelParts
  readonly undos: UndoStack
}): Promise<UapiServer | undefined> {
  const { machine, log } = parts.parts
  try {
    const uapi = await machine.openUapi(parts.interfaceName, parts.control)
    parts.undos.push(() => uapi.close())
    return uapi
  } catch (error) {
    if (!(error instanceof NsmError) || error.code === 'CONFLICT') throw error
    log.warn('no control socket: wg(8) does not see the tunnel', {
      interface: parts.interfaceName,
      reason: error.message,
    })
    return undefined
  }
}
