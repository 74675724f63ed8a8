import { NsmError } from '../base/errors.ts'
import { type ClaimMatch, escapeSegment, placeholderOf } from './oidc-claims.ts'
import { audienceOf } from './oidc-token.ts'
import type { PlacedFields, PlacedValue } from './placed-value.ts'
import { addressIn, plainUrl } from './plain-url.ts'

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

/** Reads a list of issuers; throws `USAGE` that names the line. */
export function readIssuers(value: PlacedValue, trustDomain: string): readonly OidcIssuer[] {
  const issuers = value.list().map((entry) => issuerOf(entry, trustDomain))
  checkApart(issuers, value)
  return issuers
}

/** The issuer of `--issuer` and `--allow`: each text is one rule, `claim=value,claim=value`. Throws `USAGE`. */
export function issuerOfFlags(url: string, allowed: readonly string[], trustDomain: string): OidcIssuer {
  if (!isIssuerUrl(url)) throw flagFault(`--issuer ${urlForm}`)
  const [first, ...others] = allowed.map((text, index) => ({
    name: `allow-${index + 1}`,
    match: matchOfFlag(text),
    id: `/oidc/${escapeSegment(new URL(url).host)}/{sub}`,
    ttlMs: defaultTtlMs,
    sessionMs: defaultSessionMs,
  }))
  if (!first) throw flagFault('--issuer admits nobody without --allow claim=value')
  const audience = audienceOf(trustDomain)
  const [algorithms, tokenAgeMaxMs] = [defaultAlgorithms, defaultTokenAgeMs]
  return { name: 'issuer', url, audience, algorithms, tokenAgeMaxMs, rules: [first, ...others] }
}

/** [RFC 7518 3.1] [RFC 8725 3.1] Signatures with a public key; a secret shared with an issuer is none of ours. */
const knownAlgorithms = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA']
const defaultAlgorithms = ['RS256', 'ES256', 'PS256']
/** Ours: a platform's token is fetched for the call and shown at once. */
const defaultTokenAgeMs = 600_000
/** Ours: life of an SVID. */
const defaultTtlMs = 3_600_000
/** Ours: the longest job, or a day of work; a longer one shows a new token. */
const defaultSessionMs = 43_200_000

const issuerKeys = ['name', 'issuer', 'audience', 'algorithms', 'max_token_age', 'rules', 'client_id', 'scopes']

function issuerOf(value: PlacedValue, trustDomain: string): OidcIssuer {
  const fields = value.fields(issuerKeys)
  const login = loginOf(fields)
  const [first, ...others] = fields.need('rules').list().map(ruleOf)
  if (!first) throw fields.need('rules').fault('is empty')
  const url = fields.need('issuer').text()
  if (!isIssuerUrl(url)) throw fields.need('issuer').fault(urlForm)
  const algorithms = fields.get('algorithms')?.list()
  return {
    name: fields.need('name').text(),
    url,
    audience: fields.get('audience')?.text() ?? login?.clientId ?? audienceOf(trustDomain),
    algorithms: algorithms?.map((name) => name.oneOf(knownAlgorithms)) ?? defaultAlgorithms,
    tokenAgeMaxMs: fields.get('max_token_age')?.durationMs() ?? defaultTokenAgeMs,
    rules: [first, ...others],
    ...(login ? { login } : {}),
  }
}

function loginOf(fields: PlacedFields): OidcIssuer['login'] {
  const [clientId, scopes] = [fields.get('client_id'), fields.get('scopes')]
  if (!clientId && !scopes) return undefined
  const texts = scopes?.list().map((scope) => scope.text()) ?? ['openid']
  if (!texts.includes('openid')) throw scopes?.fault('lacks openid, without which there is no ID token')
  return { clientId: fields.need('client_id').text(), scopes: texts }
}

function ruleOf(value: PlacedValue): OidcRule {
  const fields = value.fields(['name', 'match', 'id', 'ttl', 'max_session'])
  return {
    name: fields.need('name').text(),
    match: matchOf(fields.need('match')),
    id: templateOf(fields.need('id')),
    ttlMs: fields.get('ttl')?.durationMs() ?? defaultTtlMs,
    sessionMs: fields.get('max_session')?.durationMs() ?? defaultSessionMs,
  }
}

function matchOf(value: PlacedValue): ClaimMatch {
  const entries = value.entries().map(([name, values]): [string, readonly string[]] => {
    const texts = values.oneOrMore().map((one) => one.text())
    if (texts.length === 0) throw values.fault('is empty: no token would match')
    return [name, texts]
  })
  if (entries.length === 0) throw value.fault('is empty: every token of the issuer would match')
  return Object.fromEntries(entries)
}

function matchOfFlag(text: string): ClaimMatch {
  const match = new Map<string, string[]>()
  for (const part of text.split(',')) {
    const [, name, value] = /^\s*([^=\s]+)=(.+?)\s*$/.exec(part) ?? []
    if (name === undefined || value === undefined) throw flagFault('--allow is written claim=value,claim=value')
    match.set(name, [...(match.get(name) ?? []), value])
  }
  return Object.fromEntries(match)
}

/** The first segment is a word, and none of the server's own: no claim makes its bearer a site or the server. */
function templateOf(value: PlacedValue): string {
  const id = value.text()
  const segments = id.slice(1).split('/')
  const [first = '', ...others] = segments
  const isLegal = segments.every((segment) => placeholderOf(segment) !== undefined || isLiteral(segment))
  if (!id.startsWith('/') || !isLegal || others.length === 0 || !isLiteral(first)) {
    throw value.fault('must be a path like /ci/{repository_id}: a word first, a {claim} stands for a whole segment')
  }
  if (['server', 'site', 'member'].includes(first))
    throw value.fault(`begins with /${first}, which is the server's own`)
  return id
}

function isLiteral(segment: string): boolean {
  return /^[A-Za-z0-9._-]+$/.test(segment) && segment !== '.' && segment !== '..'
}

/** Two issuers must not be able to make one ID: each may call anybody by any name. */
function checkApart(issuers: readonly OidcIssuer[], value: PlacedValue): void {
  const starts = issuers.flatMap(({ name, url, rules }) =>
    rules.map(({ id }) => ({ name, url, start: id.slice(0, (id.indexOf('{') + id.length + 1) % (id.length + 1)) })),
  )
  for (const one of starts) {
    const other = starts.find(({ name, start }) => name !== one.name && start.startsWith(one.start))
    if (other) throw value.fault(`"${one.name}" and "${other.name}" could give the same ID: begin theirs differently`)
  }
  for (const key of ['name', 'url'] as const) {
    const values = issuers.map((issuer) => issuer[key])
    if (new Set(values).size < values.length) throw value.fault(`hold one ${key} twice`)
  }
}

const urlForm = 'must be an https URL without user, query and fragment'

/** [OIDC Discovery 3] HTTPS without query or fragment; plain HTTP only where the bytes never leave the machine. */
function isIssuerUrl(text: string): boolean {
  const url = plainUrl(text)
  if (url?.search !== '' || url.hash !== '') return false
  const address = addressIn(url)
  const isLoopback = address === '::1' || address?.startsWith('127.') === true
  return url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback)
}

function flagFault(what: string): NsmError {
  return new NsmError('USAGE', what, 'compare it with docs/identity.md')
}
