import { isIP } from 'node:net'
import { NsmError } from '../base/errors.ts'
import { isJsonObject, isTexts } from '../base/json.ts'
import type { DnsServeSettings, ServerAddress } from '../daemon/dns-serve.ts'
import type { DnsMode } from '../daemon/protocol.ts'

/** The flags of `nsm dns serve` as they were typed. */
export interface DnsServeFlags {
  readonly listen?: string | undefined
  readonly default?: readonly string[] | undefined
  readonly scope?: readonly string[] | undefined
}

/** [RFC 1035 4.2] */
const dnsPort = 53
/** Ours: free on most machines, and no right is needed. */
const defaultListen = '127.0.0.1:5300'

/**
 * The settings of the flags and of the text of a config file, a JSON object `{"listen", "default": [], "scope": []}` with the
 * same strings: `listen` of the flag goes first, lists are joined. Throws `USAGE` naming what cannot be understood.
 */
export function dnsServeRequest(flags: DnsServeFlags, configText?: string): DnsServeSettings {
  const config = configText === undefined ? {} : parseConfig(configText)
  const listen = parseServer(flags.listen ?? config.listen ?? defaultListen, 'listen')
  if (listen.address === '0.0.0.0' || listen.address === '::') throw openResolver(listen.address)
  return {
    listen,
    defaults: [...(flags.default ?? []), ...(config.default ?? [])].map((text) => parseServer(text, 'default')),
    scopes: [...(flags.scope ?? []), ...(config.scope ?? [])].map(parseScope),
  }
}

/** Reads `HOST[:PORT]` with an IP address, IPv6 with a port in brackets; throws `USAGE`. `what` names it in the error. */
export function parseServer(text: string, what: string): ServerAddress {
  const bracketed = /^\[([^\]]+)\](?::(\d{1,5}))?$/.exec(text)
  const plain = isIP(text) === 6 ? [text, text] : /^([^:]+)(?::(\d{1,5}))?$/.exec(text)
  const [, address = '', digits = String(dnsPort)] = bracketed ?? plain ?? []
  const port = Number(digits)
  if (isIP(address) !== 0 && port <= 0xffff) return { address, port }
  throw new NsmError(
    'USAGE',
    `${what} "${text.slice(0, 80)}" is not an IP address and port`,
    'write it like 127.0.0.1:53 or [::1]:53',
  )
}

/** Reads `SUFFIX[/MODE]=HOST[:PORT],...`; a suffix may be an IP prefix. */
function parseScope(text: string): DnsServeSettings['scopes'][number] {
  const equals = text.indexOf('=')
  const servers = text
    .slice(equals + 1)
    .split(',')
    .filter((server) => server !== '')
  if (equals < 1 || servers.length === 0) throw badScope(text)
  const [suffix, mode] = splitMode(text.slice(0, equals))
  return { suffix, mode, upstreams: servers.map((server) => parseServer(server, 'scope')) }
}

/** What stands behind the last slash is a mode, unless it is the length of a prefix. */
function splitMode(text: string): readonly [string, DnsMode] {
  const slash = text.lastIndexOf('/')
  const last = text.slice(slash + 1)
  if (slash < 0 || /^\d+$/.test(last)) return [text, 'fanout']
  const mode = modes.find((known) => known === last)
  if (mode === undefined) throw badScope(text)
  return [text.slice(0, slash), mode]
}

const modes: readonly DnsMode[] = ['fanout', 'prefer-service', 'exclusive']

function badScope(text: string): NsmError {
  const next = `write it like corp.example/exclusive=10.0.0.53; modes are ${modes.join(', ')}`
  return new NsmError('USAGE', `scope "${text.slice(0, 80)}" cannot be understood`, next)
}

function openResolver(address: string): NsmError {
  const message = `listening on ${address} would offer the names of this machine to its whole network`
  return new NsmError('USAGE', message, 'name one address, like 127.0.0.1:5300')
}

interface Config {
  readonly listen?: string
  readonly default?: readonly string[]
  readonly scope?: readonly string[]
}

function parseConfig(text: string): Config {
  const value = parseJson(text)
  if (!isJsonObject(value)) throw badConfig('is not a JSON object')
  const config: { listen?: string; default?: readonly string[]; scope?: readonly string[] } = {}
  for (const [key, entry] of Object.entries(value)) {
    if (key === 'listen' && typeof entry === 'string') config.listen = entry
    else if ((key === 'default' || key === 'scope') && isTexts(entry)) config[key] = entry
    else throw badConfig(`has an unknown or wrong entry "${key.slice(0, 40)}"`)
  }
  return config
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw badConfig(`is not JSON: ${cause instanceof Error ? cause.message : ''}`)
  }
}

function badConfig(why: string): NsmError {
  return new NsmError(
    'USAGE',
    `the config file ${why}`,
    'write {"listen": "127.0.0.1:5300", "default": [], "scope": []}',
  )
}
