import { resolve } from 'node:path'
import { isDnsName } from '../base/dns-name.ts'
import { NsmError } from '../base/errors.ts'
import { formatPrefix, parsePrefix, prefixesOverlap } from '../base/ip.ts'
import type { ServeSettings } from '../daemon/serve-settings.ts'
import { listOfFlag } from './list-flag.ts'

/** The flags of `nsm serve` as they were typed. A list from the environment arrives as one text. */
export interface ServeFlags {
  readonly service: string
  readonly prefix?: readonly string[] | string | undefined
  readonly 'dns-domain'?: string | undefined
  readonly listen: string
  readonly 'wireguard-port': number
  readonly advertise?: string | undefined
  readonly 'trust-domain'?: string | undefined
  readonly site?: string | undefined
  readonly 'site-prefix-length'?: number | undefined
  readonly relay?: readonly string[] | string | undefined
  readonly issuer?: string | undefined
  readonly allow?: readonly string[] | string | undefined
  readonly issuers?: string | undefined
  readonly policy?: string | undefined
  readonly 'bundle-listen'?: string | undefined
  readonly 'bundle-cert'?: string | undefined
  readonly 'bundle-key'?: string | undefined
}

/** Builds what `nsm serve` runs with; throws `USAGE` for a name or prefix that no member could use. */
export function serveRequest(
  flags: ServeFlags,
  dirs: { readonly stateDir: string; readonly runtimeDir: string },
): ServeSettings {
  const service = checkedService(flags.service)
  return {
    ...dirs,
    service,
    prefixes: prefixesOf(flags.prefix),
    dnsDomain: checkedDomain(flags['dns-domain'] ?? `${service}.nsm.internal`),
    listen: flags.listen,
    wireguardPort: flags['wireguard-port'],
    ...(flags.advertise === undefined ? {} : { advertise: flags.advertise }),
    ...(flags['trust-domain'] === undefined ? {} : { trustDomain: flags['trust-domain'] }),
    ...(flags.site === undefined ? {} : { site: flags.site }),
    ...(flags['site-prefix-length'] === undefined ? {} : { siteLength: flags['site-prefix-length'] }),
    ...(flags.relay === undefined ? {} : { relays: relaysOf(flags.relay) }),
    ...(flags.policy === undefined ? {} : { policyPath: resolve(flags.policy) }),
    ...issuersOf(flags),
    ...bundleWebOf(flags),
  }
}

/** Ours: the name is a part of a URL, of a DNS name and of an interface's name. */
const serviceMaxCharacters = 63

function checkedService(name: string): string {
  if (/^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$/i.test(name) && name.length <= serviceMaxCharacters) return name
  const next = `letters, digits, "-", "_" and "." inside, at most ${serviceMaxCharacters} characters`
  throw new NsmError('USAGE', `${JSON.stringify(name.slice(0, 80))} cannot name a network service`, next)
}

/** Protocol: 253 characters of a name [RFC 1035 2.3.4], less a member's label of 63 and its dot. */
const domainMaxCharacters = 189

function checkedDomain(domain: string): string {
  const name = domain.replace(/\.$/, '')
  if (isDnsName(name) && domain.length <= domainMaxCharacters) return name
  const what = `${JSON.stringify(domain.slice(0, 80))} cannot be the domain of the members' names`
  throw new NsmError('USAGE', what, `write it like blue.example.org, at most ${domainMaxCharacters} characters`)
}

/** Ranges whose addresses no host takes for its own or sends to a gateway; members refuse them. [security E2] */
const unusable = ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/3', '::/127', 'fe80::/10', 'ff00::/8'].map(
  parsePrefix,
)

function prefixesOf(flag: ServeFlags['prefix']): readonly string[] {
  const given = listOfFlag(flag)
  for (const prefix of given.map(parsePrefix)) {
    const found = unusable.find((other) => prefixesOverlap(other, prefix))
    if (!found) continue
    const text = `${formatPrefix(prefix)} reaches into ${formatPrefix(found)}, which no member can use`
    throw new NsmError('USAGE', text, 'choose a private prefix, like 10.64.0.0/16 or fd64::/64')
  }
  return given.length === 0 ? ['10.64.0.0/16'] : given
}

/** [SPIFFE ID 2] A workload's ID, or everything below a path; a whole trust domain would let each member be a relay. */
const relayForm = /^spiffe:\/\/[a-z0-9._-]{1,255}(\/[A-Za-z0-9._-]+)+(\/\*)?$/

function relaysOf(flag: ServeFlags['relay']): readonly string[] {
  const given = listOfFlag(flag)
  const wrong = given.find((id) => !relayForm.test(id))
  if (wrong === undefined) return given
  const text = `${JSON.stringify(wrong.slice(0, 80))} cannot name a relay`
  throw new NsmError('USAGE', text, 'write its SPIFFE ID, or spiffe://domain/path/* for everything below a path')
}

/** One issuer by flags, or several in a file. The text of a rule has commas of its own, so a variable holds one rule. */
function issuersOf({ issuer, allow, issuers: path }: ServeFlags): Pick<ServeSettings, 'issuers'> {
  const allowed = [allow ?? []].flat()
  if (path !== undefined && issuer === undefined && allowed.length === 0) return { issuers: { path: resolve(path) } }
  if (path === undefined && issuer !== undefined && allowed.length > 0) return { issuers: { url: issuer, allowed } }
  if (path === undefined && issuer === undefined && allowed.length === 0) return {}
  const next = "--issuer URL --allow 'claim=value', or --issuers FILE"
  throw new NsmError('USAGE', 'issuers are named in one way: a URL with its rules, or a file', next)
}

function bundleWebOf(flags: ServeFlags): Pick<ServeSettings, 'bundleWeb'> {
  const { 'bundle-listen': listen, 'bundle-cert': certificate, 'bundle-key': key } = flags
  if (listen === undefined && certificate === undefined && key === undefined) return {}
  if (listen !== undefined && certificate !== undefined && key !== undefined) {
    return { bundleWeb: { listen, certificatePath: resolve(certificate), keyPath: resolve(key) } }
  }
  const next = '--bundle-listen HOST:PORT --bundle-cert FILE --bundle-key FILE'
  throw new NsmError('USAGE', 'a bundle endpoint of the web needs an address, a certificate and its key', next)
}
