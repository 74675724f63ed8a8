import {
  parseConnectRequest,
  parseDisconnectRequest,
  parseDnsTraceRequest,
  parseListRequest,
  parseLoginRequest,
  parseLogoutRequest,
  parseTunnelDownRequest,
  parseTunnelUpRequest,
} from './parse-request.ts'
import type { DaemonApi, StatusResult } from './protocol.ts'
import type { Method } from './rpc-server.ts'

/** Methods that change the machine or tell what only its owner may know. */
export const guardedMethods: readonly string[] = [
  'connect',
  'disconnect',
  'list',
  'dnsStatus',
  'dnsTrace',
  'dnsFlush',
  'tunnelUp',
  'tunnelDown',
  'tunnelStatus',
  'login',
  'logout',
  'whoami',
]

/** The background process's methods as they come over the socket. */
export function daemonMethods(api: DaemonApi): Readonly<Record<string, Method>> {
  return {
    connect: (parameters, { note, signal }) => api.connect(parseConnectRequest(parameters), note, signal),
    disconnect: (parameters, { signal }) => api.disconnect(parseDisconnectRequest(parameters), signal),
    list: (parameters, { signal }) => api.list(parseListRequest(parameters), signal),
    status: async (_, { caller }) => (caller.mayAct ? api.status() : redacted(await api.status())),
    version: () => api.version(),
    dnsStatus: () => api.dnsStatus(),
    dnsTrace: (parameters, { signal }) => api.dnsTrace(parseDnsTraceRequest(parameters), signal),
    dnsFlush: () => api.dnsFlush(),
    tunnelUp: (parameters, { signal }) => api.tunnelUp(parseTunnelUpRequest(parameters), signal),
    tunnelDown: (parameters) => api.tunnelDown(parseTunnelDownRequest(parameters)),
    tunnelStatus: () => api.tunnelStatus(),
    login: (parameters, { signal }) => api.login(parseLoginRequest(parameters), signal),
    logout: (parameters) => api.logout(parseLogoutRequest(parameters)),
    whoami: () => api.whoami(),
  }
}

/** What anybody on the machine may know [security L3]. */
function redacted(status: StatusResult): StatusResult {
  return {
    apiVersion: status.apiVersion,
    running: status.running,
    connections: [],
    warnings: ['the connections of another user are not shown'],
  }
}
