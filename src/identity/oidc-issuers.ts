import { isIP } from 'node:net'
import { NsmError } from '../base/errors.ts'
import { isJsonObject } from '../base/json.ts'
import { type ClaimMatch, escapeSegment, placeholderOf } from './oidc-claims.ts'
import { audienceOf } from './oidc-token.ts'

/** What a token of the issuer must say, and who its bearer is then. */
export interface OidcRule {
  readonly name: string
  readonly match: ClaimMatch
  /** Path of the ID; a segment `{claim}` stands for that claim. */
  readonly id: string
  readonly ttlMs: number
  /** Renewals end so long after the token was shown. */
  readonly sessionMs: number
}

/** An issuer of tokens that is believed, and its rules, the first that matches counts. */
export interface OidcIssuer {
  readonly name: string
  readonly url: string
  readonly audience: string
  readonly algorithms: readonly string[]
  readonly tokenAgeMaxMs: number
  readonly rules: readonly [OidcRule, ...OidcRule[]]
  /** Set where people log in: the client of theirs that is ours, and what is asked for. */
  readonly login?: { readonly clientId: string; readonly scopes: readonly string[] }
}

/** Reads an issuer file, JSON whose every key is known; throws `USAGE` that names the place. */
export function parseIssuers(text: string, trustDomain: string): readonly OidcIssuer[] {
  const file = objectAt(parseJson(text), 'the file', ['issuers'])
  const issuers = listAt(file['issuers'], 'issuers').map((entry, index) =>
    issuerOf(entry, `issuers[${index}]`, trustDomain),
  )
  checkApart(issuers)
  return issuers
}

/** The issuer of `--issuer` and `--allow`: each text is one rule, `claim=value,claim=value`. Throws `USAGE`. */
export function issuerOfFlags(url: string, allowed: readonly string[], trustDomain: string): OidcIssuer {
  const rules = allowed.map((text, index) => ({
    name: `allow-${index + 1}`,
    match: matchOfFlag(text),
    id: `/oidc/${escapeSegment(new URL(checkedUrl(url, '--issuer')).host)}/{sub}`,
  }))
  if (rules.length === 0) throw fault('--issuer', 'admits nobody without --allow claim=value')
  return issuerOf({ name: 'issuer', issuer: url, rules }, '--issuer', trustDomain)
}

/** [RFC 7518 3.1] [RFC 8725 3.1] Signatures with a public key; a secret shared with an issuer is none of ours. */
const knownAlgorithms = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA']
const defaultAlgorithms = ['RS256', 'ES256', 'PS256']
/** Ours: a platform's token is fetched for the call and shown at once. */
const tokenAgeSeconds = 600
/** Ours: life of an SVID, and its longest. */
const ttlSeconds = 3_600
const ttlMaxSeconds = 86_400
/** Ours: the longest job, or a day of work; a longer one shows a new token. */
const sessionSeconds = 43_200

function issuerOf(value: unknown, place: string, trustDomain: string): OidcIssuer {
  const keys = ['name', 'issuer', 'audience', 'algorithms', 'max_token_age_seconds', 'rules', 'client_id', 'scopes']
  const entry = objectAt(value, place, keys)
  const login = loginOf(entry, place)
  const { algorithms = defaultAlgorithms, audience = login?.clientId ?? audienceOf(trustDomain) } = entry
  const [first, ...others] = listAt(entry['rules'], `${place}.rules`).map((rule, index) =>
    ruleOf(rule, `${place}.rules[${index}]`),
  )
  if (!first) throw fault(`${place}.rules`, 'is empty')
  return {
    name: textAt(entry['name'], `${place}.name`),
    url: checkedUrl(textAt(entry['issuer'], `${place}.issuer`), `${place}.issuer`),
    audience: textAt(audience, `${place}.audience`),
    algorithms: listAt(algorithms, `${place}.algorithms`).map((name) => algorithmOf(name, `${place}.algorithms`)),
    tokenAgeMaxMs:
      secondsAt(entry['max_token_age_seconds'] ?? tokenAgeSeconds, `${place}.max_token_age_seconds`) * 1000,
    rules: [first, ...others],
    ...(login ? { login } : {}),
  }
}

function loginOf(entry: Readonly<Record<string, unknown>>, place: string): OidcIssuer['login'] {
  const { client_id: clientId, scopes = ['openid'] } = entry
  if (clientId === undefined && entry['scopes'] === undefined) return undefined
  const texts = listAt(scopes, `${place}.scopes`).map((scope) => textAt(scope, `${place}.scopes`))
  if (!texts.includes('openid')) throw fault(`${place}.scopes`, 'lacks openid, without which there is no ID token')
  return { clientId: textAt(clientId, `${place}.client_id`), scopes: texts }
}

function ruleOf(value: unknown, place: string): OidcRule {
  const rule = objectAt(value, place, ['name', 'match', 'id', 'ttl_seconds', 'max_session_seconds'])
  return {
    name: textAt(rule['name'], `${place}.name`),
    match: matchOf(rule['match'], `${place}.match`),
    id: templateOf(textAt(rule['id'], `${place}.id`), `${place}.id`),
    ttlMs: secondsAt(rule['ttl_seconds'] ?? ttlSeconds, `${place}.ttl_seconds`) * 1000,
    sessionMs: secondsAt(rule['max_session_seconds'] ?? sessionSeconds, `${place}.max_session_seconds`) * 1000,
  }
}

function matchOf(value: unknown, place: string): ClaimMatch {
  if (!isJsonObject(value)) throw fault(place, 'is an object')
  const entries = Object.entries(value).map(([name, values]): [string, readonly string[]] => {
    const list = [values].flat().map((text: unknown) => textAt(text, `${place}.${name.slice(0, 64)}`))
    return [name, list]
  })
  if (entries.length === 0) throw fault(place, 'is empty: every token of the issuer would match')
  return Object.fromEntries(entries)
}

function matchOfFlag(text: string): ClaimMatch {
  const match = new Map<string, string[]>()
  for (const part of text.split(',')) {
    const [, name, value] = /^\s*([^=\s]+)=(.+?)\s*$/.exec(part) ?? []
    if (name === undefined || value === undefined) throw fault('--allow', 'is written claim=value,claim=value')
    match.set(name, [...(match.get(name) ?? []), value])
  }
  return Object.fromEntries(match)
}

/** The first segment is a word, and none of the server's own: no claim makes its bearer a site or the server. */
function templateOf(id: string, place: string): string {
  const segments = id.slice(1).split('/')
  const [first = '', ...others] = segments
  const isLegal = segments.every((segment) => placeholderOf(segment) !== undefined || isLiteral(segment))
  if (!id.startsWith('/') || !isLegal || others.length === 0 || !isLiteral(first)) {
    throw fault(place, 'is a path like /ci/{repository_id}: a word first, a {claim} stands for a whole segment')
  }
  if (['server', 'site', 'member'].includes(first))
    throw fault(place, `begins with /${first}, which is the server's own`)
  return id
}

function isLiteral(segment: string): boolean {
  return /^[A-Za-z0-9._-]+$/.test(segment) && segment !== '.' && segment !== '..'
}

/** Two issuers must not be able to make one ID: each may call anybody by any name. */
function checkApart(issuers: readonly OidcIssuer[]): void {
  const starts = issuers.flatMap(({ name, url, rules }) =>
    rules.map(({ id }) => ({ name, url, start: id.slice(0, (id.indexOf('{') + id.length + 1) % (id.length + 1)) })),
  )
  for (const one of starts) {
    const other = starts.find(({ name, start }) => name !== one.name && start.startsWith(one.start))
    if (other)
      throw fault('issuers', `"${one.name}" and "${other.name}" could give the same ID: begin theirs differently`)
  }
  for (const key of ['name', 'url'] as const) {
    const values = issuers.map((issuer) => issuer[key])
    if (new Set(values).size < values.length) throw fault('issuers', `hold one ${key} twice`)
  }
}

/** [OIDC Discovery 3] HTTPS without query or fragment; plain HTTP only where the bytes never leave the machine. */
function checkedUrl(text: string, place: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  const host = url?.hostname.replace(/^\[|\]$/g, '') ?? ''
  const isLoopback = isIP(host) !== 0 && (host === '::1' || host.startsWith('127.'))
  const isSafe = url?.protocol === 'https:' || (url?.protocol === 'http:' && isLoopback)
  if (url && isSafe && url.search === '' && url.hash === '' && url.username === '' && url.password === '') return text
  throw fault(place, 'is an https URL without user, query and fragment')
}

function algorithmOf(value: unknown, place: string): string {
  const name = knownAlgorithms.find((known) => known === value)
  if (name === undefined) throw fault(place, `are some of ${knownAlgorithms.join(', ')}`)
  return name
}

function secondsAt(value: unknown, place: string): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= ttlMaxSeconds) return value
  throw fault(place, `is a whole number from 1 to ${ttlMaxSeconds}`)
}

function textAt(value: unknown, place: string): string {
  if (typeof value === 'string' && value !== '' && value.length <= 2_048) return value
  throw fault(place, 'is a text')
}

function listAt(value: unknown, place: string): readonly unknown[] {
  if (Array.isArray(value)) return value
  throw fault(place, 'is a list')
}

function objectAt(value: unknown, place: string, keys: readonly string[]): Readonly<Record<string, unknown>> {
  if (!isJsonObject(value)) throw fault(place, 'is an object')
  const unknownKey = Object.keys(value).find((key) => !keys.includes(key))
  if (unknownKey !== undefined)
    throw fault(`${place}.${unknownKey.slice(0, 64)}`, `is not known; ${keys.join(', ')} are`)
  return Object.fromEntries(Object.entries(value))
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new NsmError('USAGE', 'the issuer file is not JSON', 'compare it with docs/identity.md', { cause })
  }
}

function fault(place: string, what: string): NsmError {
  return new NsmError('USAGE', `issuers: ${place} ${what}`, 'compare it with docs/identity.md')
}
