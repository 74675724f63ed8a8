import { NsmError } from '../base/errors.ts'
import type { JsonObject } from '../base/json.ts'
import type { Settings } from '../base/settings.ts'
import type { DnsFlushResult, DnsStatusResult, DnsTraceResult } from './dns-protocol.ts'
import type { IdentityResult, LogoutResult } from './login-protocol.ts'
import { socketPath } from './paths.ts'
import type {
  ConnectResult,
  DaemonApi,
  DisconnectResult,
  ListResult,
  ProgressStep,
  StatusResult,
  VersionResult,
} from './protocol.ts'
import { AbsentPeer, connectRpc, type RpcClient, SilentPeer } from './rpc-client.ts'
import type { TunnelDownResult, TunnelStatusResult, TunnelUpResult } from './tunnel-protocol.ts'

/** The background process over its socket; `close` ends the connection, not the process. */
export type DaemonClient = DaemonApi & { close(): Promise<void> }

/** Ours: a process that was about to end when we came is looked for anew, and once more. */
const looksMax = 3

/**
 * Connects to the background process; with `start`, starts one first when none runs. Throws `UNREACHABLE`: an `AbsentPeer`
 * only when none runs, not for one that hangs or has no room.
 */
export async function connectDaemon(settings: Settings, options: { readonly start: boolean }): Promise<DaemonClient> {
  for (let looks = 0; ; looks++) {
    try {
      return await greet(await connectRpc(socketPath(settings)))
    } catch (error) {
      const mayPass = error instanceof NsmError && error.code === 'UNREACHABLE' && !(error instanceof SilentPeer)
      if (!mayPass || looks >= looksMax || (error instanceof AbsentPeer && !options.start)) throw error
    }
    if (options.start) await (await import('./start.ts')).startDaemon(settings)
  }
}

/** Ours: the background process keeps the deadline of a connect itself; this is for one that hangs. */
const connectGraceMs = 5_000
/** Ours: a registry far away has 15 s for its answer. */
const listTimeoutMs = 20_000

/** Ours: the server may ask the issuer for its keys first, and a keychain its owner for the password, in two calls. */
const loginTimeoutMs = 90_000

/** A process that is just ending accepts a connection but answers nothing: the first question finds out. */
async function greet(rpc: RpcClient): Promise<DaemonClient> {
  try {
    await rpc.call('version', {})
    return createClient(rpc)
  } catch (error) {
    await rpc.close()
    throw error
  }
}

function createClient(rpc: RpcClient): DaemonClient {
  const note = (progress: (step: ProgressStep) => void) => (message: JsonObject) => {
    if (isProgressStep(message)) progress(message)
  }
  return {
    connect: async (request, progress, signal) =>
      expectResult(
        await rpc.call('connect', request, {
          note: note(progress),
          signal,
          timeoutMs: request.timeoutMs + connectGraceMs,
        }),
        isConnectResult,
      ),
    disconnect: async (request, signal) =>
      expectResult(await rpc.call('disconnect', request, { signal }), isDisconnectResult),
    status: async () => expectResult(await rpc.call('status', {}), isStatusResult),
    list: async (request, signal) =>
      expectResult(await rpc.call('list', request, { signal, timeoutMs: listTimeoutMs }), isListResult),
    dnsStatus: async () => expectResult(await rpc.call('dnsStatus', {}), isDnsStatusResult),
    dnsTrace: async (request, signal) =>
      expectResult(await rpc.call('dnsTrace', request, { signal }), isDnsTraceResult),
    dnsFlush: async () => expectResult(await rpc.call('dnsFlush', {}), isDnsFlushResult),
    tunnelUp: async (request, signal) =>
      expectResult(await rpc.call('tunnelUp', request, { signal }), isTunnelUpResult),
    tunnelDown: async (request) => expectResult(await rpc.call('tunnelDown', request), isTunnelDownResult),
    tunnelStatus: async () => expectResult(await rpc.call('tunnelStatus', {}), isTunnelStatusResult),
    login: async (request, signal) =>
      expectResult(await rpc.call('login', request, { signal, timeoutMs: loginTimeoutMs }), isIdentityResult),
    logout: async (request) =>
      expectResult(await rpc.call('logout', request, { timeoutMs: loginTimeoutMs }), isLogoutResult),
    whoami: async () => expectResult(await rpc.call('whoami', {}), isIdentityResult),
    version: async () => expectResult(await rpc.call('version', {}), isVersionResult),
    close: () => rpc.close(),
  }
}

/** Both sides are the same program; `apiVersion` tells when they are not of the same version. */
function expectResult<T>(value: JsonObject, isResult: (value: unknown) => value is T): T {
  if (isResult(value)) return value
  throw new NsmError(
    'USAGE',
    'the background process is of another version',
    'run `nsm disconnect`, so that it ends, and try again',
  )
}

function hasVersion(value: unknown, apiVersion: string): boolean {
  return typeof value === 'object' && value !== null && 'apiVersion' in value && value.apiVersion === apiVersion
}

function isConnectResult(value: unknown): value is ConnectResult {
  return hasVersion(value, 'nsm/connect/v1')
}

function isDisconnectResult(value: unknown): value is DisconnectResult {
  return hasVersion(value, 'nsm/disconnect/v1')
}

function isStatusResult(value: unknown): value is StatusResult {
  return hasVersion(value, 'nsm/status/v1')
}

function isListResult(value: unknown): value is ListResult {
  return hasVersion(value, 'nsm/list/v1')
}

function isDnsStatusResult(value: unknown): value is DnsStatusResult {
  return hasVersion(value, 'nsm/dns-status/v1')
}

function isDnsTraceResult(value: unknown): value is DnsTraceResult {
  return hasVersion(value, 'nsm/dns-trace/v1')
}

function isDnsFlushResult(value: unknown): value is DnsFlushResult {
  return hasVersion(value, 'nsm/dns-flush/v1')
}

function isTunnelUpResult(value: unknown): value is TunnelUpResult {
  return hasVersion(value, 'nsm/tunnel-up/v1')
}

function isTunnelDownResult(value: unknown): value is TunnelDownResult {
  return hasVersion(value, 'nsm/tunnel-down/v1')
}

function isTunnelStatusResult(value: unknown): value is TunnelStatusResult {
  return hasVersion(value, 'nsm/tunnel-status/v1')
}

function isIdentityResult(value: unknown): value is IdentityResult {
  return hasVersion(value, 'nsm/whoami/v1')
}

function isLogoutResult(value: unknown): value is LogoutResult {
  return hasVersion(value, 'nsm/logout/v1')
}

function isVersionResult(value: unknown): value is VersionResult {
  return typeof value === 'object' && value !== null && 'version' in value && 'pid' in value
}

function isProgressStep(value: unknown): value is ProgressStep {
  return typeof value === 'object' && value !== null && 'phase' in value && 'state' in value && 'elapsedMs' in value
}
