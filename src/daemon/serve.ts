import { isIP } from 'node:net'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { systemClock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { makePrivateDir } from '../base/files.ts'
import type { Log } from '../base/log.ts'
import { UndoStack } from '../base/undo.ts'
import { toLabel } from '../endpoint/members.ts'
import { dialSites } from '../endpoint/site-dialer.ts'
import { openEndpointStore } from '../endpoint/store.ts'
import { createVl3, type Vl3 } from '../endpoint/vl3.ts'
import { openChannel } from '../nsm/channel.ts'
import { createNsmClient } from '../nsm/client.ts'
import { NetworkServiceEndpointSchema } from '../nsm/generated/registry_pb.js'
import { joinTokenLifeMs } from '../nsm/join-tokens.ts'
import { withoutLeftDomains } from '../nsm/left-domains.ts'
import { createOwnTokens } from '../nsm/own-tokens.ts'
import { type NsmServer, startNsmServer } from '../nsm/server.ts'
import { createManager } from '../registry/manager.ts'
import { type Dial, targetOf } from '../registry/next-hop.ts'
import { createRegistry, type Registry } from '../registry/registry.ts'
import { registryServices } from '../registry/server.ts'
import { openRegistryStore } from '../registry/store.ts'
import { openHub } from '../tunnel/hub.ts'
import { openAuditFile } from './audit-file.ts'
import { takeLock } from './lock.ts'
import { createNameService } from './name-service.ts'
import { serveAuditPath, serveLockPath } from './paths.ts'
import { isWildcard, parseListen, reachableAddress, splitAdvertise } from './serve-address.ts'
import { startServeAdmin } from './serve-admin.ts'
import { refuseBundleWeb } from './serve-bundle.ts'
import { openDomains } from './serve-domains.ts'
import { openFirstSite } from './serve-first.ts'
import type { Around, Home } from './serve-home.ts'
import { isSiteOf } from './serve-ids.ts'
import { refuseIssuers } from './serve-oidc.ts'
import type { Served, ServeSettings } from './serve-settings.ts'
import { isFurtherSite, openFurtherSite } from './serve-site.ts'
import { urlOf } from './session.ts'

export type { ServeSettings } from './serve-settings.ts'

/** What runs. */
export interface ServeInfo extends Served {
  /** What of the prefixes is this site's. */
  readonly parts: readonly string[]
  readonly trustDomain: string
  readonly endpointName: string
  /** Address and ports that clients use. */
  readonly address: string
  readonly port: number
}

/** A running server. */
export interface RunningServe {
  /** For one machine, single use, shown once; empty when the first site is away. */
  readonly joinString: string
  /** Where the server is, for those who show an ID token of an issuer; absent when it believes none. */
  readonly openJoinString?: string
  readonly info: ServeInfo
  /** Reads the files of the policy and of the issuers again. */
  reload(): Promise<void>
  /** Ends everything; leases, registrations and the authority stay on disk. */
  stop(): Promise<void>
  /** Resolves when the server cannot go on. */
  readonly failed: Promise<NsmError>
}

/**
 * Starts authority, registry, manager and vL3 endpoint in this process, on one TCP and one UDP port. Everything durable is
 * in the state directory: a second start is the same server. Throws `CONFLICT` for taken ports or a second server,
 * `USAGE` for settings that cannot be meant.
 */
export async function startServe(settings: ServeSettings, log: Log, signal?: AbortSignal): Promise<RunningServe> {
  const undo = new UndoStack(log)
  try {
    await takeDirectories(settings, undo)
    const audit = openAuditFile({ path: serveAuditPath(settings), clock: systemClock, log })
    undo.push(() => audit.close())
    const running = await start(settings, { log, audit, undo })
    signal?.throwIfAborted()
    return running
  } catch (error) {
    await undo.run()
    throw error
  }
}

async function start(settings: ServeSettings, around: Around): Promise<RunningServe> {
  const { undo, log } = around
  const clock = systemClock
  const address = reachableAddress(settings)
  let port = parseListen(settings.listen).port
  const isFurther = await isFurtherSite(settings)
  if (isFurther) {
    refuseIssuers(settings)
    refuseBundleWeb(settings)
  }
  const openHome = isFurther ? openFurtherSite : openFirstSite
  const opened = await openHome(settings, around, () => ({ address, port }))
  const admission = withoutLeftDomains(opened.admission, opened.source)
  undo.push(async () => admission.close())
  const home = { ...opened, admission }
  const vl3 = await openVl3(settings, home, around)
  const { server, registry } = await openServer(settings, { ...around, home, vl3 })
  port = advertisedPort(settings, server)
  const listen = settings.listen.trim().replace(/\d+$/, String(server.port))
  const site = settings.site ?? (toLabel(hostname()) || 'site')
  await home.register({ registry, url: ownUrl(settings, server), site })
  linkOthers({ ...around, home, vl3, registry, address })
  undo.push(await startServeAdmin({ runtimeDir: settings.runtimeDir, home, clock, log }))
  const { trustDomain, endpointName, network, parts } = home
  const openJoinString = home.openJoinString()
  return {
    joinString: await firstInvitation(home, log),
    ...(openJoinString === undefined ? {} : { openJoinString }),
    info: { ...network, parts, listen, trustDomain, endpointName, address, port, wireguardPort: vl3.wireguardPort },
    reload: () => home.reload(),
    stop: undo.run,
    failed: Promise.race([vl3.failed, home.failed]),
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

async function openVl3(settings: ServeSettings, home: Home, { log, audit, undo }: Around): Promise<Vl3> {
  const { wireguardPort } = settings
  const { source, network, parts, endpointName } = home
  const store = openEndpointStore(join(settings.stateDir, 'endpoint.db'))
  undo.push(async () => store.close())
  const advertised = splitAdvertise(settings.advertise)?.ip
  const { address } = parseListen(settings.listen)
  const vl3 = await createVl3({
    ...{ ...network, parts, endpointName, store, openHub, clock: systemClock, log, audit },
    takePart: home.takePart,
    isSite: isSiteOf(home.trustDomain),
    admission: home.admission,
    mayHold: home.mayHold,
    listenAddress: isWildcard(address) ? '::' : address,
    listenPort: wireguardPort,
    reachableAt: (peer) => advertised ?? peer.localAddress,
    ownToken: createOwnTokens({ svid: () => source.current().svid, clock: systemClock }),
  })
  undo.push(() => vl3.stop())
  return vl3
}

async function openServer(
  settings: ServeSettings,
  { home, vl3, log, audit, undo }: Around & { readonly home: Home; readonly vl3: Vl3 },
): Promise<{ readonly server: NsmServer; readonly registry: Registry }> {
  const clock = systemClock
  const { source, trustDomain, endpointName, managerName: name, admission } = home
  const store = openRegistryStore(join(settings.stateDir, 'registry.db'))
  undo.push(async () => store.close())
  const registry = createRegistry({ store, mayOffer: isSiteOf(trustDomain), admission, clock, log, audit })
  undo.push(async () => registry.close())
  const dial: Dial = (target, expect) => openChannel({ target, source, clock, expect })
  const domains = openDomains({ source, dial, own: trustDomain, names: createNameService(), clock })
  undo.push(async () => domains.close())
  const manager = createManager({
    ...{ name, registry, admission, dial, domains, clock, log, audit },
    localEndpoint: (asked) => (asked === endpointName ? vl3 : undefined),
  })
  undo.push(async () => manager.close())
  const beyond = { domains, ownUrl: () => ownUrl(settings, server) }
  const services = [...home.services, ...registryServices(registry, clock, { beyond, admission }), ...manager.services]
  const listen = parseListen(settings.listen)
  const server: NsmServer = await startNsmServer({
    source,
    listen,
    services,
    admission,
    onWeb: home.onWeb,
    clock,
    log,
    audit,
  })
  undo.push(() => server.stop())
  return { server, registry }
}

/** Links this endpoint with those of the other sites, over channels that only a site's server may answer. */
function linkOthers(
  parts: Around & {
    readonly home: Home
    readonly vl3: Vl3
    readonly registry: Registry
    readonly address: string
  },
): void {
  const { home, vl3, registry, address, log, undo } = parts
  const clock = systemClock
  const { source, trustDomain, network } = home
  const expect = isSiteOf(trustDomain)
  const query = create(NetworkServiceEndpointSchema, { networkServiceNames: [network.service] })
  const dialer = dialSites({
    end: vl3.sites,
    ownName: home.endpointName,
    watch: (signal) => registry.watchEndpoints(query, signal),
    open(url) {
      const channel = openChannel({ target: targetOf(url), source, clock, expect })
      return { client: createNsmClient(channel), close: () => channel.close() }
    },
    address: isIP(address) === 0 ? undefined : address,
    clock,
    log,
  })
  undo.push(() => dialer.stop())
}

/** A further site has none to show while the first one is away. */
async function firstInvitation(home: Home, log: Log): Promise<string> {
  try {
    return (await home.invite({ ttlMs: joinTokenLifeMs })).joinString
  } catch (error) {
    log.warn('there is no join string', { error: toNsmError(error).message })
    return ''
  }
}

function advertisedPort({ advertise }: ServeSettings, server: NsmServer): number {
  return splitAdvertise(advertise)?.port ?? server.port
}

function ownUrl(settings: ServeSettings, server: NsmServer): string {
  return urlOf({ address: reachableAddress(settings), port: advertisedPort(settings, server) })
}
