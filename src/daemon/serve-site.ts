import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { durationFromMs, timestampMs } from '@bufbuild/protobuf/wkt'
import { pause, systemClock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { formatPrefix, type Prefix, parsePrefix } from '../base/ip.ts'
import { holdPrefixes } from '../endpoint/ipam-client.ts'
import { formatJoinString, type JoinString, parseJoinString } from '../identity/join-string.ts'
import type { IdentitySource } from '../identity/source.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import { pinsOf } from '../identity/svid.ts'
import type { Channel } from '../nsm/channel.ts'
import { relayedIdentityService } from '../nsm/exchange-relay.ts'
import { SiteService } from '../nsm/generated/site_pb.js'
import { createRegistryClient } from '../registry/client.ts'
import { mirrorRegistry } from '../registry/mirror.ts'
import { keepRegistered, type Registration } from '../registry/registration.ts'
import type { Invitation, InviteResult } from './inviter.ts'
import { localRegistryClient } from './local-registry.ts'
import type { ReachedAt } from './serve-address.ts'
import type { Around, Home, Network } from './serve-home.ts'
import { firstSiteId } from './serve-ids.ts'
import type { ServeSettings } from './serve-settings.ts'
import { readSiteFile, type SiteFile, writeSiteFile } from './serve-site-file.ts'
import { openSiteIdentity } from './serve-site-identity.ts'
import { openSitePolicy } from './serve-site-policy.ts'

/** True when this server is a further site: it is told to join, or did so before. */
export async function isFurtherSite(settings: ServeSettings): Promise<boolean> {
  if ((await readSiteFile(settings.stateDir)) !== undefined) return true
  if (settings.joinString === undefined) return false
  if (!existsSync(join(settings.stateDir, 'ca'))) return true
  throw new NsmError(
    'CONFLICT',
    `${settings.stateDir} holds a network of its own`,
    'join with another --state folder, or serve without --join',
  )
}

/** The home of a further site. The first one must be reached once; later starts go on without it. */
export async function openFurtherSite(
  settings: ServeSettings,
  { log, audit, undo }: Around,
  reachedAt: ReachedAt,
): Promise<Home> {
  const clock = systemClock
  const { stateDir } = settings
  const stored = await readSiteFile(stateDir)
  const first = firstOf(settings, stored)
  const { source, keys, channel } = await openSiteIdentity({ stateDir, join: first, clock, log, audit, undo })
  const { trustDomain, path } = parseSpiffeId(source.current().svid.spiffeId)
  const { spiffeId } = source.current().svid
  const network = await askNetwork(channel, stored)
  const { token: _, ...server } = first
  const save = (parts: readonly string[]) =>
    writeSiteFile(stateDir, { server: formatJoinString(server), network, parts })
  const held = await openParts(channel, { network, parts: stored?.parts ?? [], save, log, audit, undo })
  const endpointName = `${network.service}-vl3-${nameOf(path)}`
  const policy = await openSitePolicy(settings, { channel, own: spiffeId, trustDomain, clock, log, audit, undo })
  const upstream = createRegistryClient(channel)
  return {
    ...{ source, spiffeId, trustDomain, network, endpointName, ...held },
    failed: Promise.race([held.failed, policy.failed]),
    admission: policy.admission,
    policyState: policy.state,
    reload: policy.reload,
    managerName: `nsm-manager-${nameOf(path)}.${trustDomain}`,
    mayHold: () => true,
    services: relayedIdentityService({ source, keys, channel, clock }),
    openJoinString: () => undefined,
    invite: (wanted) => inviteByFirst(channel, { wanted, source, reachedAt }),
    async register({ registry, url, site }) {
      const owner = firstSiteId(trustDomain)
      undo.push(
        mirrorRegistry({ from: upstream, to: registry, owner, isOwn: (name) => name === endpointName, clock, log }),
      )
      const { service } = network
      const networkServiceLabels = { [service]: { labels: { site } } }
      const endpoint = { name: endpointName, url, networkServiceNames: [service], networkServiceLabels }
      const local = localRegistryClient({ registry, owner: spiffeId, clock })
      for (const client of [local, upstream]) {
        const registering = registerSoon({ client, services: [], endpoint, clock, log })
        undo.push(() => registering.stop())
      }
    },
  }
}

/** Ours: pause before the first registration is tried again. */
const registerPauseMs = 2_000

/** Registers without waiting: the first site may be away, and this one serves its members all the same. */
function registerSoon(parts: Parameters<typeof keepRegistered>[0]): { stop(): Promise<void> } {
  const stopping = new AbortController()
  const { signal } = stopping
  const register = async (): Promise<Registration | undefined> => {
    for (let level: 'warn' | 'debug' = 'warn'; !signal.aborted; level = 'debug') {
      try {
        return await keepRegistered({ ...parts, signal })
      } catch (error) {
        if (signal.aborted) break
        parts.log[level]('this site is not registered yet', { error: toNsmError(error).message })
        await pause(parts.clock, registerPauseMs, signal)
      }
    }
    return undefined
  }
  const registered = register()
  return {
    async stop() {
      stopping.abort()
      await (await registered)?.stop()
    },
  }
}

/** What to join: the new join string, else the server that was joined before. */
function firstOf(settings: ServeSettings, stored: SiteFile | undefined): JoinString {
  const text = settings.joinString ?? stored?.server
  if (text === undefined) throw new NsmError('USAGE', 'there is nothing to join', 'give --join FILE')
  return parseJoinString(text)
}

/** Ours: a first site that does not say in this time what the network is is taken as away. */
const askTimeoutMs = 5_000

async function askNetwork(channel: Channel, stored: SiteFile | undefined): Promise<Network> {
  const settings = { timeoutMs: askTimeoutMs, wait: stored === undefined }
  try {
    const { message } = await channel.unary(SiteService.method.getNetwork, {}, settings)
    const { service, prefixes, dnsDomain } = message
    return { service, prefixes, dnsDomain }
  } catch (error) {
    if (stored && !(error instanceof NsmError && error.code === 'REFUSED')) return stored.network
    throw error
  }
}

async function openParts(
  channel: Channel,
  around: Around & {
    readonly network: Network
    readonly parts: readonly string[]
    readonly save: (parts: readonly string[]) => Promise<void>
  },
): Promise<Pick<Home, 'parts' | 'takePart' | 'failed'>> {
  const { network, save, log, undo } = around
  const wholes = network.prefixes.map(parsePrefix)
  const held = holdPrefixes({ channel, wholes, held: around.parts.map(parsePrefix), clock: systemClock, log })
  undo.push(() => held.close())
  const parts = [...around.parts]
  const takePart = async (whole: Prefix) => {
    const mine = wholes.find((other) => formatPrefix(other) === formatPrefix(whole)) ?? whole
    const part = await held.take(mine)
    parts.push(formatPrefix(part))
    await save(parts)
    return part
  }
  if (parts.length === 0) for (const whole of wholes) await takePart(whole)
  await save(parts)
  // A prefix that is somebody else's must not be used again after a restart.
  const failed = held.lost.then(async (error) => {
    await save([])
    return error
  })
  return { parts: [...parts], takePart, failed }
}

async function inviteByFirst(
  channel: Channel,
  parts: { readonly wanted: Invitation; readonly source: IdentitySource; readonly reachedAt: ReachedAt },
): Promise<InviteResult> {
  const { wanted, source } = parts
  if (wanted.endpoint) {
    throw new NsmError(
      'REFUSED',
      'a further site invites members only',
      'run `nsm invite --endpoint` on the first site',
    )
  }
  const ttl = durationFromMs(wanted.ttlMs)
  const { message } = await channel.unary(SiteService.method.invite, { id: wanted.id ?? '', ttl }, { wait: false })
  const { token, spiffeId, expires } = message
  const state = source.current()
  const { trustDomain } = parseSpiffeId(state.svid.spiffeId)
  const [pin = ''] = pinsOf(state)
  return {
    apiVersion: 'nsm/invite/v1',
    joinString: formatJoinString({ ...parts.reachedAt(), trustDomain, pin, token }),
    spiffeId,
    expiresMs: expires ? timestampMs(expires) : systemClock.wallMs() + wanted.ttlMs,
  }
}

/** The last part of the ID as one label of a name. */
function nameOf(path: string): string {
  const last = path.slice(path.lastIndexOf('/') + 1).toLowerCase()
  return last.replace(/[^a-z0-9-]+/g, '-')
}
