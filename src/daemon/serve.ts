import { join } from 'node:path'
import { systemClock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { makePrivateDir } from '../base/files.ts'
import type { Log } from '../base/log.ts'
import { UndoStack } from '../base/undo.ts'
import { registerVl3 } from '../endpoint/registration.ts'
import { openEndpointStore } from '../endpoint/store.ts'
import { createVl3, type Vl3 } from '../endpoint/vl3.ts'
import { createAuthoritySource } from '../identity/authority-source.ts'
import { type Authority, openAuthority } from '../identity/ca.ts'
import type { IdentitySource } from '../identity/source.ts'
import { signToken } from '../identity/token.ts'
import { openChannel } from '../nsm/channel.ts'
import { identityService } from '../nsm/exchange-server.ts'
import { type JoinTokens, joinTokenLifeMs, openJoinTokens } from '../nsm/join-tokens.ts'
import { tokenLifetimeMs } from '../nsm/peer.ts'
import { type NsmServer, startNsmServer } from '../nsm/server.ts'
import { createManager } from '../registry/manager.ts'
import { createRegistry, type Registry } from '../registry/registry.ts'
import { registryServices } from '../registry/server.ts'
import { openRegistryStore } from '../registry/store.ts'
import { openHub } from '../tunnel/hub.ts'
import { createInviter, type Inviter } from './inviter.ts'
import { localRegistryClient } from './local-registry.ts'
import { takeLock } from './lock.ts'
import { serveLockPath } from './paths.ts'
import { isWildcard, parseListen, reachableAddress, splitAdvertise } from './serve-address.ts'
import { startServeAdmin } from './serve-admin.ts'

/** What a server is to serve. */
export interface ServeSettings {
  readonly service: string
  readonly prefixes: readonly string[]
  /** DNS domain of the members. */
  readonly dnsDomain: string
  /** `host:port` of gRPC. */
  readonly listen: string
  /** UDP port of WireGuard; 0 = any. */
  readonly wireguardPort: number
  /** Address or `address:port` at which clients reach this machine; its first global address by default. */
  readonly advertise?: string
  readonly stateDir: string
  readonly runtimeDir: string
  readonly trustDomain?: string
}

/** What runs. */
export interface ServeInfo {
  readonly service: string
  readonly trustDomain: string
  readonly endpointName: string
  /** Address and ports that clients use. */
  readonly address: string
  readonly port: number
  readonly wireguardPort: number
}

/** A running server. */
export interface RunningServe {
  /** For one machine, single use, shown once. */
  readonly joinString: string
  readonly info: ServeInfo
  /** Ends everything; leases, registrations and the authority stay on disk. */
  stop(): Promise<void>
  /** Resolves when the server cannot go on. */
  readonly failed: Promise<NsmError>
}

/** Ours: life of the server's own SVID; it is renewed at half of it. */
const ownSvidLifeMs = 86_400_000

/**
 * Starts authority, registry, manager and vL3 endpoint in this process, on one TCP and one UDP port. Everything durable is
 * in the state directory: a second start is the same server. Throws `CONFLICT` for taken ports or a second server,
 * `USAGE` for settings that cannot be meant.
 */
export async function startServe(settings: ServeSettings, log: Log, signal?: AbortSignal): Promise<RunningServe> {
  const undo = new UndoStack(log)
  try {
    const running = await start(settings, { log, undo })
    signal?.throwIfAborted()
    return running
  } catch (error) {
    await undo.run()
    throw error
  }
}

interface Around {
  readonly log: Log
  readonly undo: UndoStack
}

async function start(settings: ServeSettings, { log, undo }: Around): Promise<RunningServe> {
  await takeDirectories(settings, undo)
  const clock = systemClock
  const authority = await openAuthority({ dir: join(settings.stateDir, 'ca'), ...pick(settings), clock, log })
  const spiffeId = `spiffe://${authority.trustDomain}/server`
  const source = createAuthoritySource({ authority, spiffeId, ttlMs: ownSvidLifeMs, clock, log })
  undo.push(() => source.close())
  const tokens = openJoinTokens(join(settings.stateDir, 'join-tokens.db'))
  undo.push(async () => tokens.close())
  const vl3 = await openVl3(settings, { source, log, undo })
  const { server, registry } = await openServer(settings, { authority, source, tokens, vl3, log, undo })
  await register(settings, { registry, spiffeId, server, log, undo })
  const address = reachableAddress(settings)
  const port = splitAdvertise(settings.advertise)?.port ?? server.port
  const inviter = createInviter({ authority, tokens, address, port, clock })
  undo.push(await startServeAdmin({ runtimeDir: settings.runtimeDir, inviter, clock, log }))
  return {
    joinString: firstInvitation(inviter),
    info: {
      service: settings.service,
      trustDomain: authority.trustDomain,
      endpointName: endpointNameOf(settings),
      address,
      port,
      wireguardPort: vl3.wireguardPort,
    },
    stop: undo.run,
    failed: vl3.failed,
  }
}

/** One server per state directory, and per runtime directory because of the socket for invitations. */
async function takeDirectories(settings: ServeSettings, undo: UndoStack): Promise<void> {
  await makePrivateDir(settings.stateDir)
  await makePrivateDir(settings.runtimeDir, process.getuid?.() === 0 ? 0o755 : 0o700)
  for (const path of [join(settings.stateDir, 'serve.lock'), serveLockPath(settings)]) {
    const lock = takeLock(path)
    if (!lock) {
      throw new NsmError(
        'CONFLICT',
        `another nsm serve holds ${path}`,
        'stop it, or give this one its own NSM_STATE_DIR and NSM_RUNTIME_DIR',
      )
    }
    undo.push(async () => lock.release())
  }
}

interface Wired extends Around {
  readonly authority: Authority
  readonly source: IdentitySource
  readonly tokens: JoinTokens
  readonly vl3: Vl3
}

async function openVl3(
  settings: ServeSettings,
  { source, log, undo }: Pick<Wired, 'source' | 'log' | 'undo'>,
): Promise<Vl3> {
  const { service, prefixes, dnsDomain, wireguardPort } = settings
  const store = openEndpointStore(join(settings.stateDir, 'endpoint.db'))
  undo.push(async () => store.close())
  const advertised = splitAdvertise(settings.advertise)?.ip
  const { address } = parseListen(settings.listen)
  const vl3 = await createVl3({
    ...{ service, prefixes, dnsDomain, store, openHub, clock: systemClock, log },
    endpointName: endpointNameOf(settings),
    listenAddress: isWildcard(address) ? '::' : address,
    listenPort: wireguardPort,
    reachableAt: (peer) => advertised ?? peer.localAddress,
    ownToken: (audience) => {
      const expiresMs = systemClock.wallMs() + tokenLifetimeMs
      return { token: signToken({ svid: source.current().svid, audience, expiresMs }), expiresMs }
    },
  })
  undo.push(() => vl3.stop())
  return vl3
}

async function openServer(
  settings: ServeSettings,
  { authority, source, tokens, vl3, log, undo }: Wired,
): Promise<{ readonly server: NsmServer; readonly registry: Registry }> {
  const clock = systemClock
  const store = openRegistryStore(join(settings.stateDir, 'registry.db'))
  undo.push(async () => store.close())
  const registry = createRegistry({ store, clock, log })
  undo.push(async () => registry.close())
  const endpointName = endpointNameOf(settings)
  const manager = createManager({
    ...{ name: `nsm-manager.${authority.trustDomain}`, registry, clock, log },
    localEndpoint: (name) => (name === endpointName ? vl3 : undefined),
    dial: (target) => openChannel({ target, source, clock }),
  })
  undo.push(async () => manager.close())
  const services = [
    ...identityService({ authority, joinTokens: tokens, clock, log }),
    ...registryServices(registry, clock),
    ...manager.services,
  ]
  const server = await startNsmServer({ source, listen: parseListen(settings.listen), services, clock, log })
  undo.push(() => server.stop())
  return { server, registry }
}

async function register(
  settings: ServeSettings,
  parts: Around & { readonly registry: Registry; readonly spiffeId: string; readonly server: NsmServer },
): Promise<void> {
  const { registry, spiffeId, server, log, undo } = parts
  const registration = await registerVl3({
    client: localRegistryClient({ registry, owner: spiffeId, clock: systemClock }),
    service: settings.service,
    endpointName: endpointNameOf(settings),
    url: `tcp://${hostText(reachableAddress(settings))}:${server.port}`,
    clock: systemClock,
    log,
  })
  undo.push(() => registration.stop())
}

function endpointNameOf(settings: ServeSettings): string {
  return `${settings.service}-vl3`
}

function firstInvitation(inviter: Inviter): string {
  return inviter.invite({ ttlMs: joinTokenLifeMs }).joinString
}

function hostText(address: string): string {
  return address.includes(':') ? `[${address}]` : address
}

function pick({ trustDomain }: ServeSettings): { readonly trustDomain?: string } {
  return trustDomain === undefined ? {} : { trustDomain }
}
