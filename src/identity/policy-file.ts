import { isDnsName } from '../base/dns-name.ts'
import { type Prefix, parsePrefix } from '../base/ip.ts'
import type { FederatedDomain } from './federated-domain.ts'
import { parseIdPattern } from './id-pattern.ts'
import { type OidcIssuer, readIssuers } from './oidc-issuers.ts'
import { type PlacedFields, type PlacedValue, readPlaced } from './placed-value.ts'
import {
  createPolicy,
  type Denial,
  type Grant,
  type Policy,
  type PolicyAction,
  type PolicyRules,
  policyActions,
} from './policy.ts'
import { isTrustDomain } from './spiffe-id.ts'

/** What one file says. */
export interface PolicyFile {
  readonly policy: Policy
  /** The trust domain of the server that it is for. */
  readonly trustDomain: string
  /** Absent when the file names none. */
  readonly issuers?: readonly OidcIssuer[]
}

/** Reads a policy file, YAML or JSON whose every key is known; throws `USAGE` that names the line. */
export function parsePolicyFile(text: string, file: string): PolicyFile {
  const top = readPlaced(text, file).fields(['admission', 'issuers'])
  const admission = top.need('admission')
  const rules = rulesOf(admission)
  const trustDomain = ownDomain(rules, admission)
  const issuers = top.get('issuers')
  return {
    policy: createPolicy(rules),
    trustDomain,
    ...(issuers && { issuers: readIssuers(issuers, trustDomain) }),
  }
}

/** Ours: identities are told apart by patterns; more lines would name each of them. */
const linesMax = 10_000
/** Ours: more than the endpoint itself gives one identity. */
const connectionsMax = 1_024

function rulesOf(admission: PlacedValue): PolicyRules {
  const fields = admission.fields(['default', 'domains', 'grants', 'denies'])
  fields.need('default').oneOf(['deny'])
  const domains = fields.need('domains').list().map(domainOf)
  const grants = fields.need('grants').list()
  const denials = fields.get('denies')?.list() ?? []
  if (grants.length + denials.length > linesMax) throw admission.fault(`has more than ${linesMax} lines`)
  return { domains, grants: checkedOnce(grants.map(grantOf), grants), denials: denials.map(denialOf) }
}

function domainOf(value: PlacedValue): FederatedDomain {
  const fields = value.fields(['td', 'bundle'])
  const trustDomain = fields.need('td').text()
  if (!isTrustDomain(trustDomain)) throw fields.need('td').fault('is no trust domain: a-z, 0-9, ".", "-" and "_"')
  return { trustDomain, bundle: bundleOf(fields.need('bundle')) }
}

function bundleOf(value: PlacedValue): FederatedDomain['bundle'] {
  if (!value.isObject) return { profile: value.oneOf(['own']) }
  const fields = value.fields(['profile', 'url', 'endpoint_id', 'bundle_file', 'path'])
  const profile = fields.need('profile').oneOf(['https_spiffe', 'https_web', 'file'])
  const wanted = { https_spiffe: ['url', 'endpoint_id', 'bundle_file'], https_web: ['url'], file: ['path'] }[profile]
  value.fields(['profile', ...wanted])
  if (profile === 'file') return { profile, path: fields.need('path').text() }
  const url = fields.need('url').text()
  if (!/^https:\/\/[^/@?#]+(\/[^?#]*)?$/.test(url) || !URL.canParse(url)) {
    throw fields.need('url').fault('must be an https URL without user, query and fragment [SPIFFE Federation 5.2]')
  }
  if (profile === 'https_web') return { profile, url }
  const path = fields.get('bundle_file')?.text()
  const endpointId = fields.need('endpoint_id')
  const { isOpen, segments } = endpointId.parsed(parseIdPattern)
  if (isOpen || segments.includes(undefined)) throw endpointId.fault('must be one SPIFFE ID, no pattern')
  return { profile, url, endpointId: endpointId.text(), ...(path !== undefined && { path }) }
}

function grantOf(value: PlacedValue): Grant {
  const fields = value.fields(['name', 'who', 'may', 'services', 'prefixes', 'dns', 'limits'])
  const may = fields
    .need('may')
    .list()
    .map((action) => action.oneOf(policyActions))
  if (may.length === 0) throw fields.need('may').fault('is empty')
  const isOffer = may.includes('offer')
  for (const key of ['prefixes', 'dns']) {
    if (!isOffer && fields.get(key)) throw fields.need(key).fault('is for those who may offer')
  }
  return {
    name: nameOf(fields.need('name')),
    line: value.line,
    who: fields.need('who').parsed(parseIdPattern),
    may,
    services: servicesOf(fields, may),
    prefixes: isOffer ? fields.need('prefixes').list().map(prefixOf) : [],
    zones: (fields.get('dns')?.list() ?? []).map(zoneOf),
    ...limitsOf(fields.get('limits')),
  }
}

function limitsOf(value: PlacedValue | undefined): Pick<Grant, 'connectionsMax' | 'tokenLifetimeMs'> {
  const fields = value?.fields(['connections', 'token_lifetime'])
  const [connections, lifetime] = [fields?.get('connections'), fields?.get('token_lifetime')]
  return {
    ...(connections && { connectionsMax: connections.count(connectionsMax) }),
    ...(lifetime && { tokenLifetimeMs: lifetimeOf(lifetime) }),
  }
}

/** Ours: a client that refreshes more often than each second or two serves nobody. */
const lifetimeMinMs = 10_000

function lifetimeOf(value: PlacedValue): number {
  const lifetimeMs = value.durationMs()
  if (lifetimeMs < lifetimeMinMs) throw value.fault('must be at least 10s')
  return lifetimeMs
}

/** Whoever may only administer needs no services; everybody else names them. */
function servicesOf(fields: PlacedFields, may: readonly PolicyAction[]): readonly string[] {
  if (may.every((action) => action === 'admin') && !fields.get('services')) return []
  const services = fields.need('services')
  const names = services.list().map((name) => serviceOf(name, may))
  if (names.length === 0) throw services.fault('is empty')
  return names
}

function serviceOf(value: PlacedValue, may: readonly PolicyAction[]): string {
  const name = value.text()
  if (!/^(\*|[A-Za-z0-9._-]+)(@[A-Za-z0-9._-]+)?$/.test(name)) {
    throw value.fault('must be the name of a service, with its @domain where it has one, or "*" for all')
  }
  if (may.includes('own') && /[*@]/.test(name))
    throw value.fault('must be a name of this server: each is owned by itself')
  return name
}

function denialOf(value: PlacedValue): Denial {
  const fields = value.fields(['who', 'reason'])
  return {
    who: fields.need('who').parsed(parseIdPattern),
    reason: fields.need('reason').text(),
    line: value.line,
  }
}

function nameOf(value: PlacedValue): string {
  const name = value.text()
  if (!/^[A-Za-z0-9._-]{1,64}$/.test(name)) throw value.fault('must be at most 64 letters, digits, ".", "-" and "_"')
  return name
}

function prefixOf(value: PlacedValue): Prefix {
  return value.parsed(parsePrefix)
}

function zoneOf(value: PlacedValue): string {
  const zone = value.text().replace(/\.$/, '').toLowerCase()
  if (!isDnsName(zone)) throw value.fault('must be a domain name')
  return zone
}

/** A grant is known by its name, and a service has one owner, so the file says each once. */
function checkedOnce(grants: readonly Grant[], values: readonly PlacedValue[]): readonly Grant[] {
  const names = new Map<string, Grant>()
  const owners = new Map<string, Grant>()
  for (const [at, grant] of grants.entries()) {
    const same = names.get(grant.name)
    if (same) throw values[at]?.fault(`has the name of the grant in line ${same.line}: ${grant.name}`)
    names.set(grant.name, grant)
    if (!grant.may.includes('own')) continue
    for (const service of new Set(grant.services)) {
      const other = owners.get(service)
      if (other) throw values[at]?.fault(`owns ${service}, as ${other.name} in line ${other.line} does: one of them`)
      owners.set(service, grant)
    }
  }
  return grants
}

/** One bundle is this server's own; the domains of all others differ from it and from each other. */
function ownDomain({ domains }: PolicyRules, admission: PlacedValue): string {
  const own = domains.filter(({ bundle }) => bundle.profile === 'own')
  const names = domains.map(({ trustDomain }) => trustDomain)
  if (new Set(names).size < names.length) throw admission.fault('has a domain twice')
  const [first, ...others] = own
  if (first && others.length === 0) return first.trustDomain
  throw admission.fault('must have one domain with `bundle: own`, that of the server')
}
