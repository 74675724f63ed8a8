import { NsmError } from '../base/errors.ts'
import { parsePrefix } from '../base/ip.ts'
import { isJsonObject, type JsonObject } from '../base/json.ts'
import { storeChoices } from '../identity/secret-store.ts'
import type { DnsTraceRequest } from './dns-protocol.ts'
import type { LoginRequest, LogoutRequest } from './login-protocol.ts'
import type { ConnectRequest, DisconnectRequest, DnsMode, ListRequest, SvidPaths, SvidText } from './protocol.ts'
import type { TunnelDownRequest, TunnelUpRequest } from './tunnel-protocol.ts'

/* The border of the background process: what comes in is checked once, unknown keys are refused [security X4]. */

/** Reads the parameters of `connect`; throws `USAGE` naming the one that cannot be understood. */
export function parseConnectRequest(value: unknown): ConnectRequest {
  const object = objectWith(value, [
    'services',
    'joinString',
    'idToken',
    'manager',
    'svidFiles',
    'workloadSocket',
    'workloadHint',
    'workloadId',
    'workloadFirst',
    'applicationUid',
    'labels',
    'interfaceName',
    'mtuBytes',
    'allowPrefixes',
    'excludePrefixes',
    'allowDomains',
    'dnsMode',
    'dns',
    'timeoutMs',
    'name',
    'dialTimeoutMs',
    'tokenLifetimeMs',
    'livenessEnabled',
    'livenessIntervalMs',
    'livenessTimeoutMs',
    'awarenessGroups',
  ])
  const optional = {
    joinString: optionalText(object, 'joinString'),
    idToken: optionalText(object, 'idToken'),
    manager: optionalText(object, 'manager'),
    svidFiles: optionalSvid(object),
    workloadSocket: optionalText(object, 'workloadSocket'),
    workloadHint: optionalText(object, 'workloadHint'),
    workloadId: optionalText(object, 'workloadId'),
    workloadFirst: optionalFlag(object, 'workloadFirst'),
    applicationUid: optionalInteger(object, 'applicationUid', uidMax),
    interfaceName: optionalText(object, 'interfaceName'),
    mtuBytes: optionalInteger(object, 'mtuBytes', mtuMaxBytes),
    allowDomains: object['allowDomains'] === undefined ? undefined : texts(object, 'allowDomains'),
    name: optionalText(object, 'name'),
    dialTimeoutMs: optionalInteger(object, 'dialTimeoutMs', timeoutMaxMs),
    tokenLifetimeMs: optionalInteger(object, 'tokenLifetimeMs', timeoutMaxMs),
    livenessEnabled: optionalFlag(object, 'livenessEnabled'),
    livenessIntervalMs: optionalInteger(object, 'livenessIntervalMs', timeoutMaxMs),
    livenessTimeoutMs: optionalInteger(object, 'livenessTimeoutMs', timeoutMaxMs),
    awarenessGroups: object['awarenessGroups'] === undefined ? undefined : groups(object),
  }
  return {
    ...present(optional),
    services: texts(object, 'services'),
    labels: labelsOf(object),
    allowPrefixes: prefixes(object, 'allowPrefixes'),
    excludePrefixes: prefixes(object, 'excludePrefixes'),
    dnsMode: oneOf<DnsMode>(object, 'dnsMode', ['fanout', 'prefer-service', 'exclusive']),
    dns: oneOf<'auto' | 'off'>(object, 'dns', ['auto', 'off']),
    timeoutMs: integer(object, 'timeoutMs', timeoutMaxMs),
  }
}

/** Reads the parameters of `disconnect`; throws `USAGE`. */
export function parseDisconnectRequest(value: unknown): DisconnectRequest {
  const object = objectWith(value, ['services', 'force'])
  if (typeof object['force'] !== 'boolean') throw fault('force', 'is true or false')
  return { services: texts(object, 'services'), force: object['force'] }
}

/** Reads the parameters of `list`; throws `USAGE`. */
export function parseListRequest(value: unknown): ListRequest {
  const object = objectWith(value, ['pattern'])
  return present({ pattern: optionalText(object, 'pattern') })
}

/** Reads the parameters of `login`; throws `USAGE`. */
export function parseLoginRequest(value: unknown): LoginRequest {
  const object = objectWith(value, ['joinString', 'idToken', 'issuer', 'clientId', 'refreshToken', 'store'])
  return {
    joinString: text(object['joinString'], 'joinString'),
    idToken: text(object['idToken'], 'idToken'),
    issuer: text(object['issuer'], 'issuer'),
    clientId: text(object['clientId'], 'clientId'),
    store: oneOf(object, 'store', storeChoices),
    ...present({ refreshToken: optionalText(object, 'refreshToken') }),
  }
}

/** Reads the parameters of `logout`; throws `USAGE`. */
export function parseLogoutRequest(value: unknown): LogoutRequest {
  const object = objectWith(value, ['whose', 'all'])
  return { ...present({ whose: optionalText(object, 'whose') }), all: optionalFlag(object, 'all') ?? false }
}

/** Reads the parameters of `dnsTrace`; throws `USAGE`. */
export function parseDnsTraceRequest(value: unknown): DnsTraceRequest {
  const object = objectWith(value, ['name', 'type'])
  return { name: text(object['name'], 'name'), type: text(object['type'], 'type') }
}

/** Reads the parameters of `tunnelUp`; throws `USAGE`. */
export function parseTunnelUpRequest(value: unknown): TunnelUpRequest {
  const object = objectWith(value, ['interfaceName', 'fileName', 'text'])
  return {
    interfaceName: text(object['interfaceName'], 'interfaceName'),
    fileName: text(object['fileName'], 'fileName'),
    text: text(object['text'], 'text'),
  }
}

/** Reads the parameters of `tunnelDown`; throws `USAGE`. */
export function parseTunnelDownRequest(value: unknown): TunnelDownRequest {
  return { interfaceNames: texts(objectWith(value, ['interfaceNames']), 'interfaceNames') }
}

/** Ours: a day; a wait that is longer is a mistake. */
const timeoutMaxMs = 86_400_000
/** Ours: more entries in one list are a mistake. */
const entriesMax = 128
/** Ours: a join file or a PEM bundle is smaller. */
const textMaxCharacters = 256 * 1024
/** [Linux uidgid.h] The largest number is nobody's. */
const uidMax = 2 ** 32 - 2
/** [IEEE 802.3] Jumbo frames end here. */
const mtuMaxBytes = 9_216

function objectWith(value: unknown, keys: readonly string[]): JsonObject {
  if (!isJsonObject(value)) throw fault('parameters', 'are a JSON object')
  const unknownKey = Object.keys(value).find((key) => !keys.includes(key))
  if (unknownKey !== undefined) throw fault(unknownKey.slice(0, 64), 'is not known')
  return value
}

function text(value: unknown, name: string): string {
  if (typeof value !== 'string' || value.length > textMaxCharacters) throw fault(name, 'is a text')
  return value
}

function optionalText(object: JsonObject, name: string): string | undefined {
  return object[name] === undefined ? undefined : text(object[name], name)
}

function optionalFlag(object: JsonObject, name: string): boolean | undefined {
  const value = object[name]
  if (value === undefined || typeof value === 'boolean') return value
  throw fault(name, 'is true or false')
}

function texts(object: JsonObject, name: string): readonly string[] {
  const value = object[name]
  if (!Array.isArray(value) || value.length > entriesMax) throw fault(name, `is a list of at most ${entriesMax} texts`)
  return value.map((entry) => text(entry, name))
}

function prefixes(object: JsonObject, name: string): readonly string[] {
  const list = texts(object, name)
  for (const entry of list) parsePrefix(entry)
  return list
}

function integer(object: JsonObject, name: string, max: number): number {
  const value = object[name]
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > max) {
    throw fault(name, `is a whole number from 1 to ${max}`)
  }
  return value
}

function optionalInteger(object: JsonObject, name: string, max: number): number | undefined {
  return object[name] === undefined ? undefined : integer(object, name, max)
}

function groups(object: JsonObject): readonly (readonly string[])[] {
  const value = object['awarenessGroups']
  if (!Array.isArray(value) || value.length > entriesMax) throw fault('awarenessGroups', 'are lists of texts')
  return value.map((group) => texts({ awarenessGroups: group }, 'awarenessGroups'))
}

function oneOf<T extends string>(object: JsonObject, name: string, values: readonly T[]): T {
  const found = values.find((value) => value === object[name])
  if (found === undefined) throw fault(name, `is one of ${values.join(', ')}`)
  return found
}

function labelsOf(object: JsonObject): Readonly<Record<string, string>> {
  const value = object['labels']
  if (!isJsonObject(value) || Object.keys(value).length > entriesMax) throw fault('labels', 'are pairs of texts')
  return Object.fromEntries(
    Object.entries(value).map(([key, entry]) => [key, text(entry, `label ${key.slice(0, 64)}`)]),
  )
}

function optionalSvid(object: JsonObject): SvidText | undefined {
  if (object['svidFiles'] === undefined) return undefined
  const svid = objectWith(object['svidFiles'], ['svidPem', 'keyPem', 'bundlePem', 'paths'])
  return {
    svidPem: text(svid['svidPem'], 'svidPem'),
    keyPem: text(svid['keyPem'], 'keyPem'),
    bundlePem: text(svid['bundlePem'], 'bundlePem'),
    ...(svid['paths'] === undefined ? {} : { paths: svidPaths(svid['paths']) }),
  }
}

function svidPaths(value: unknown): SvidPaths {
  const paths = objectWith(value, ['svidPath', 'keyPath', 'bundlePath'])
  const path = (name: string) => {
    const given = text(paths[name], name)
    if (given.startsWith('/') && !given.includes('\0')) return given
    throw fault(name, 'is an absolute path')
  }
  return { svidPath: path('svidPath'), keyPath: path('keyPath'), bundlePath: path('bundlePath') }
}

type Present<T> = { readonly [K in keyof T]?: Exclude<T[K], undefined> }

/** Leaves out what is undefined, so that an absent value is absent. */
function present<T extends object>(values: T): Present<T>
function present(values: object): object {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined))
}

function fault(name: string, what: string): NsmError {
  return new NsmError('USAGE', `request: ${name} ${what}`, 'see `nsm connect --help`')
}
