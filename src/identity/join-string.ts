import { isIP, isIPv6 } from 'node:net'
import { NsmError } from '../base/errors.ts'
import { isTrustDomain } from './spiffe-id.ts'

/** How to reach a server and how to know it: printed by `nsm serve` and `nsm invite`. */
export interface JoinString {
  /** Host name or IP address, without brackets. */
  readonly address: string
  readonly port: number
  readonly trustDomain: string
  /** `sha256-<base64url>` of the root's SubjectPublicKeyInfo. */
  readonly pin: string
  /** Single-use join token; a secret. */
  readonly token?: string
}

/** The text of a join string: `nsm://host:port/?td=..&pin=sha256-..[&jt=..]`. */
export function formatJoinString(join: JoinString): string {
  const host = isIPv6(join.address) ? `[${join.address}]` : join.address
  const token = join.token === undefined ? '' : `&jt=${join.token}`
  return `nsm://${host}:${join.port}/?td=${join.trustDomain}&pin=${join.pin}${token}`
}

/** Parses a join string, blanks around it allowed; throws `USAGE` that points at the fault and hides the token. */
export function parseJoinString(text: string): JoinString {
  const join = text.trim()
  if (!join.startsWith(scheme)) throw fault(undefined, 0, `it does not start with ${scheme}`)
  if (join.length > joinMaxCharacters) throw fault(undefined, 0, 'it is too long')
  const slash = join.indexOf('/', scheme.length)
  if (slash < 0) throw fault(join, join.length, 'the "/" after host and port is missing')
  const target = parseTarget(join, slash)
  if (join[slash + 1] !== '?') throw fault(join, slash + 1, 'a "?" and the parameters td and pin are missing')
  const values = parseParameters(join, slash + 2)
  const { td, pin, jt } = Object.fromEntries(values)
  if (td === undefined) throw fault(join, join.length, 'the parameter td (trust domain) is missing')
  if (pin === undefined) throw fault(join, join.length, 'the parameter pin (hash of the root key) is missing')
  return { ...target, trustDomain: td, pin, ...(jt === undefined ? {} : { token: jt }) }
}

/** The text of a join string for another root of the same server. */
export function withPin(join: string, pin: string): string {
  return join.replace(/(?<=[?&]pin=)sha256-[A-Za-z0-9_-]{43}/, pin)
}

/** The line of a join file that counts: the others are blank or begin with `#`. */
export function joinLine(text: string): string {
  return (
    text
      .split('\n')
      .map((line) => line.trim())
      .find((line) => line !== '' && !line.startsWith('#')) ?? ''
  )
}

const scheme = 'nsm://'
/** Ours: 253 host + 255 trust domain + 512 token and the rest. */
const joinMaxCharacters = 1200

const parameterRules: Readonly<Record<string, { readonly valid: (value: string) => boolean; readonly what: string }>> =
  {
    td: { valid: isTrustDomain, what: 'td is not a trust domain (a-z, 0-9, ".", "-", "_")' },
    pin: { valid: (value) => /^sha256-[A-Za-z0-9_-]{43}$/.test(value), what: 'pin is not sha256- and 43 characters' },
    jt: {
      valid: (value) => /^[A-Za-z0-9_-]{1,512}$/.test(value),
      what: 'jt is not a token of A-Z, a-z, 0-9, "-", "_"',
    },
  }

function parseTarget(join: string, end: number): { readonly address: string; readonly port: number } {
  const target = join.slice(scheme.length, end)
  const found = /^(?:\[([^\]]*)\]|([^:[\]]*)):([^:]*)$/.exec(target)
  if (!found) throw fault(join, scheme.length, 'host:port expected; an IPv6 address stands in brackets')
  const [, bracketed, plain, digits = ''] = found
  const isHost = bracketed === undefined ? isHostName(plain ?? '') : isIPv6(bracketed) && !bracketed.includes('%')
  if (!isHost) throw fault(join, scheme.length, 'this is not a host name or an IP address')
  const port = /^\d{1,5}$/.test(digits) ? Number(digits) : 0
  if (port < 1 || port > 65_535) throw fault(join, end - digits.length, 'the port is not 1 to 65535')
  return { address: bracketed ?? plain ?? '', port }
}

/** [RFC 1123 2.1] */
function isHostName(text: string): boolean {
  if (isIP(text) === 4) return true
  return text.length <= 253 && /^(?!-)[A-Za-z0-9-]{1,63}(?:\.(?!-)[A-Za-z0-9-]{1,63})*$/.test(text)
}

function parseParameters(join: string, start: number): Map<string, string> {
  const values = new Map<string, string>()
  let at = start
  for (const part of join.slice(start).split('&')) {
    const equals = part.indexOf('=')
    const name = equals < 0 ? part : part.slice(0, equals)
    const value = equals < 0 ? '' : part.slice(equals + 1)
    const rule = Object.hasOwn(parameterRules, name) ? parameterRules[name] : undefined
    if (!rule) throw fault(join, at, 'unknown parameter; td, pin and jt are known')
    if (values.has(name)) throw fault(join, at, `${name} appears twice`)
    if (!rule.valid(value)) throw fault(join, at + equals + 1, rule.what)
    values.set(name, value)
    at += part.length + 1
  }
  return values
}

/** A caret under the fault; the token is masked, and text that is no join string is not shown at all. */
function fault(join: string | undefined, at: number, what: string): NsmError {
  const hidden = join?.replace(/(?<=jt=)[^&]*/gi, (token) => '*'.repeat(token.length)).replaceAll(/[^ -~]/g, '?')
  const picture = hidden === undefined ? '' : `\n  ${hidden}\n  ${' '.repeat(at)}^`
  return new NsmError('USAGE', `the join string cannot be read: ${what}${picture}`, 'copy it again from `nsm invite`')
}
