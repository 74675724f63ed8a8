import { join } from 'node:path'
import { systemClock } from '../base/clock.ts'
import { formatPrefix, parsePrefix, prefixCovers } from '../base/ip.ts'
import { ipamService } from '../endpoint/ipam-server.ts'
import { openPrefixAuthority, type PrefixAuthority } from '../endpoint/prefix-authority.ts'
import { defaultSiteLength } from '../endpoint/prefix-plan.ts'
import { registerVl3 } from '../endpoint/registration.ts'
import { believingAuthority, createAuthoritySource } from '../identity/authority-source.ts'
import { createBundleEndpoint } from '../identity/bundle-endpoint.ts'
import { type Authority, openAuthority } from '../identity/ca.ts'
import { openFederation } from '../identity/federation.ts'
import { formatJoinString } from '../identity/join-string.ts'
import { identityService } from '../nsm/exchange-server.ts'
import { openJoinTokens } from '../nsm/join-tokens.ts'
import { createJwtIssuer } from '../nsm/jwt-issuer.ts'
import { createInviter } from './inviter.ts'
import { localRegistryClient } from './local-registry.ts'
import type { ReachedAt } from './serve-address.ts'
import { serveBundleOnWeb } from './serve-bundle.ts'
import type { Around, Home, Network } from './serve-home.ts'
import { firstSiteId, isSiteOf } from './serve-ids.ts'
import { openOidc } from './serve-oidc.ts'
import { openPolicy } from './serve-policy.ts'
import type { ServeSettings } from './serve-settings.ts'
import { siteService } from './serve-site-service.ts'

/** Ours: life of the server's own SVID; it is renewed at half of it. */
const ownSvidLifeMs = 86_400_000

/** The home of a first site: authority, join tokens and plan of prefixes in its state directory, made at the first call. */
export async function openFirstSite(
  settings: ServeSettings,
  { log, audit, undo }: Around,
  reachedAt: ReachedAt,
): Promise<Home> {
  const clock = systemClock
  const { service, prefixes, dnsDomain, stateDir } = settings
  const authority = await openAuthority({ dir: join(stateDir, 'ca'), ...pick(settings), clock, log, audit })
  undo.push(async () => authority.close())
  const { trustDomain } = authority
  const spiffeId = firstSiteId(trustDomain)
  const federation = await openFederation({
    ...{ trustDomain, own: () => authority.bundles, path: join(stateDir, 'federation.json') },
    ...{ webRoots: settings.bundleRoots, clock, log, audit },
  })
  undo.push(() => federation.close())
  const source = createAuthoritySource({ authority, federation, spiffeId, ttlMs: ownSvidLifeMs, clock, log, audit })
  undo.push(() => source.close())
  const believing = believingAuthority(authority, source, federation)
  const endpoint = createBundleEndpoint({ document: () => authority.document, clock })
  if (settings.bundleWeb) await serveBundleOnWeb(settings.bundleWeb, { endpoint, clock, log, undo })
  const tokens = openJoinTokens(join(stateDir, 'join-tokens.db'))
  undo.push(async () => tokens.close())
  const around = { log, audit, undo, trustDomain, clock }
  const { oidc, reload: reloadIssuers } = await openOidc(settings, around)
  const policy = await openPolicy(settings, { ...around, own: spiffeId, federation, oidc })
  const { admission } = policy
  const isDenied = (id: string) => admission.isExcluded(id)
  const issueJwt = createJwtIssuer({ authority: believing, admission, clock, audit })
  const plan = openPrefixAuthority({
    ...{ path: join(stateDir, 'prefixes.db'), prefixes: prefixes.map(parsePrefix), clock, log },
    siteLength: settings.siteLength ?? defaultSiteLength,
  })
  undo.push(async () => plan.close())
  const inviter = createInviter({ authority, tokens, reachedAt, clock })
  const network: Network = { service, prefixes, dnsDomain }
  const isSite = (id: string) => isSiteOf(trustDomain)(id) && !isDenied(id)
  const endpointName = `${service}-vl3`
  return {
    ...{ source, spiffeId, trustDomain, network, endpointName, federation, authority, admission },
    policyState: policy.state,
    reload: async () => void (await Promise.all([policy.reload(), reloadIssuers()])),
    onWeb: endpoint.serve,
    managerName: `nsm-manager.${trustDomain}`,
    ...ownParts(plan, spiffeId),
    mayHold: (owner, claimed) => claimed.every((text) => plan.ownerOf(parsePrefix(text)) === owner),
    services: [
      ...identityService({
        authority: believing,
        joinTokens: tokens,
        oidc,
        isDenied,
        issueJwt,
        isSite,
        clock,
        log,
        audit,
      }),
      ...ipamService({ authority: plan, isSite }),
      ...siteService({
        network,
        authority: believing,
        inviter,
        oidc,
        isSite,
        isDenied,
        issueJwt,
        policy,
        clock,
        log,
        audit,
      }),
    ],
    invite: async (wanted) => inviter.invite(wanted),
    openJoinString: () => (oidc.issuers.length === 0 ? undefined : openJoinString(authority, reachedAt)),
    async register({ registry, url, site }) {
      const client = localRegistryClient({ registry, owner: spiffeId, clock })
      const registration = await registerVl3({ client, service, endpointName, url, labels: { site }, clock, log })
      undo.push(() => registration.stop())
    },
    failed: new Promise(() => {}),
  }
}

function openJoinString({ trustDomain, rootSpkiPin: pin }: Authority, reachedAt: ReachedAt): string {
  return formatJoinString({ ...reachedAt(), trustDomain, pin })
}

/** The parts of the last run, and one of every prefix that has none yet. */
function ownParts(plan: PrefixAuthority, owner: string): Pick<Home, 'parts' | 'takePart'> {
  const stay = plan.open(owner)
  const take = (whole: Network['prefixes'][number]) => {
    const excluded = plan.prefixes.filter((other) => formatPrefix(other) !== whole)
    return stay.take({ excluded })
  }
  const parts = plan.partsOf(owner).map((wanted) => stay.take({ wanted, excluded: [] }))
  for (const whole of plan.prefixes) {
    if (!parts.some((part) => prefixCovers(whole, part))) parts.push(take(formatPrefix(whole)))
  }
  return { parts: parts.map(formatPrefix), takePart: async (whole) => take(formatPrefix(whole)) }
}

function pick({ trustDomain }: ServeSettings): { readonly trustDomain?: string } {
  return trustDomain === undefined ? {} : { trustDomain }
}
