import { NsmError } from '../base/errors.ts'
import { isJsonObject } from '../base/json.ts'
import type { Settings } from '../base/settings.ts'
import { formatBundle } from '../identity/bundle-document.ts'
import type { Authority } from '../identity/ca.ts'
import { readCertificate } from '../identity/certificate.ts'
import { spkiPin } from '../identity/keys.ts'
import type { CaState, RotateRequest } from './ca-protocol.ts'
import type { Method } from './rpc-server.ts'
import { askServe, otherVersion } from './serve-ask.ts'
import type { Home } from './serve-home.ts'

type Served = Pick<Home, 'authority' | 'federation' | 'trustDomain'>

/** What the socket of a server answers about its authority. */
export function caMethods(home: Served): Record<string, Method> {
  return {
    caStatus: async () => statusOf(home, authorityOf(home)),
    rotateRoot: async (parameters) => rotate(home, parseRotation(parameters)),
    bundle: async () => ({ bundle: formatBundle(authorityOf(home).document) }),
  }
}

/** How it stands with the authority of the running server; throws `UNREACHABLE` when none runs. */
export function caOfRunning(settings: Pick<Settings, 'runtimeDir'>): Promise<CaState> {
  return askForCa(settings, 'caStatus', {})
}

/** Has the running server change its root; throws `CONFLICT` when it is not the moment, `UNREACHABLE` when none runs. */
export function rotateRunning(settings: Pick<Settings, 'runtimeDir'>, wanted: RotateRequest): Promise<CaState> {
  return askForCa(settings, 'rotateRoot', wanted)
}

/** The trust bundle of the running server as other domains take it; throws `UNREACHABLE` when none runs. */
export async function bundleOfRunning(settings: Pick<Settings, 'runtimeDir'>): Promise<string> {
  const result = await askServe(settings, 'bundle', {})
  if (isJsonObject(result) && typeof result['bundle'] === 'string') return result['bundle']
  throw otherVersion()
}

async function askForCa(settings: Pick<Settings, 'runtimeDir'>, method: string, parameters: object): Promise<CaState> {
  const result = await askServe(settings, method, parameters)
  if (isCaState(result)) return result
  throw otherVersion()
}

async function rotate(home: Served, { finish, publishMs }: RotateRequest): Promise<CaState> {
  const authority = authorityOf(home)
  await (finish ? authority.rotation.finish() : authority.rotation.begin(publishMs))
  return statusOf(home, authority)
}

function statusOf(home: Served, { document, rotation }: Pick<Authority, 'document' | 'rotation'>): CaState {
  const { trustDomain, federation } = home
  const roots = document.roots.map(readCertificate).map(({ spki, notAfterMs }) => ({ pin: spkiPin(spki), notAfterMs }))
  return { trustDomain, ...rotation.view(), roots, domains: federation?.status() ?? [] }
}

function parseRotation(parameters: unknown): RotateRequest {
  const { finish, publishMs } = isJsonObject(parameters) ? parameters : {}
  const isTime = publishMs === undefined || (typeof publishMs === 'number' && publishMs >= 0)
  if (typeof finish !== 'boolean' || !isTime) {
    throw new NsmError('USAGE', 'the root is changed by "finish" and perhaps "publishMs"', 'see `nsm ca rotate --help`')
  }
  return { finish, ...(publishMs === undefined ? {} : { publishMs }) }
}

function isCaState(value: unknown): value is CaState {
  return isJsonObject(value) && typeof value['phase'] === 'string' && Array.isArray(value['roots'])
}

function authorityOf({ authority }: Served): Pick<Authority, 'document' | 'rotation'> {
  if (authority) return authority
  throw new NsmError('USAGE', 'a further site has no authority', 'run it on the first server of the network')
}
