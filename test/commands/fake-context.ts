import { runCommandLine } from '../../src/commands/main.ts'
import type { IdentityResult, LogoutResult } from '../../src/daemon/login-protocol.ts'
import type { PolicyCheckResult, PolicyTestResult } from '../../src/daemon/policy-protocol.ts'
import type { ConnectionView, ConnectRequest, DisconnectRequest, ListRequest } from '../../src/daemon/protocol.ts'
import { AbsentPeer } from '../../src/daemon/rpc-client.ts'
import type { CommandContext, DaemonConnection, ServeHandle } from '../../src/ui/command-context.ts'
import { fakeDnsApi, fakeDnsContext } from './fake-dns.ts'
import { fakeLoginApi } from './fake-login.ts'
import { fakeTunnelApi } from './fake-tunnel.ts'

/** A connection that is up, as the background process reports it. */
export const upView: ConnectionView = {
  id: 'laptop-1-abc',
  service: 'my-networkservice-1',
  state: 'up',
  interfaceName: 'nsm-1',
  addresses: ['10.64.0.2/32'],
  routes: ['10.64.0.0/16'],
  dnsDomains: ['my-networkservice-1.nsm.internal'],
  dnsServers: ['10.64.0.1:53'],
  name: 'laptop-1.my-networkservice-1.nsm.internal',
  endpoint: 'vl3-1',
  endpointAddress: '192.0.2.1:51820',
  manager: '192.0.2.1:5001',
  mtuBytes: 1420,
  sinceMs: Date.UTC(2026, 0, 1, 12, 0, 0),
  lastHandshakeAgeMs: 42_000,
  rttMs: 1.25,
  receivedBytes: 1_536,
  sentBytes: 512,
  expiresMs: Date.UTC(2026, 0, 1, 12, 15, 0),
}

/** What a command did to the doubles around it. */
export interface Recorded {
  readonly out: string[]
  readonly err: string[]
  readonly calls: { readonly name: string; readonly request?: unknown }[]
  closedDaemons: number
  /** Actions that SIGHUP calls. */
  readonly hangups: (() => void)[]
}

/** Replaces parts of the doubles. */
export interface FakeOptions {
  readonly policyTest?: PolicyTestResult
  readonly policyCheck?: Partial<PolicyCheckResult>
  /** Every call of the background process, the server and the repair fails with this. */
  readonly failure?: Error
  readonly daemonRuns?: boolean
  readonly connections?: readonly ConnectionView[]
  readonly environment?: Readonly<Record<string, string>>
  readonly input?: string
  readonly signal?: AbortSignal
  readonly isTerminal?: boolean
  readonly serve?: ServeHandle
  /** What the background process says of the identity. */
  readonly identity?: IdentityResult
  readonly logout?: LogoutResult
}

/** Runs a command line among the doubles; `call` gives the request of the first call of a name. */
export async function runFake(argv: readonly string[], options: FakeOptions = {}) {
  const { context, recorded } = fakeContext(options)
  const exitCode = await runCommandLine(argv, context)
  const call = (name: string) => recorded.calls.find((found) => found.name === name)?.request
  return { exitCode, out: recorded.out.join('\n'), err: recorded.err.join('\n'), call, recorded }
}

const granted: PolicyTestResult = {
  apiVersion: 'nsm/policy-test/v1',
  id: 'spiffe://a/b',
  action: 'find',
  isGranted: true,
  grant: 'all',
  line: 7,
  path: '/p.yaml',
}
const checked: PolicyCheckResult = {
  apiVersion: 'nsm/policy-check/v1',
  path: '/p.yaml',
  domains: 1,
  grants: 2,
  denies: 3,
}

/** A command context without a process behind it. */
export function fakeContext(options: FakeOptions = {}): {
  readonly context: CommandContext
  readonly recorded: Recorded
} {
  const recorded: Recorded = { out: [], err: [], calls: [], closedDaemons: 0, hangups: [] }
  const answer = <T>(name: string, value: T, request?: unknown): Promise<T> => {
    recorded.calls.push({ name, request })
    return options.failure ? Promise.reject(options.failure) : Promise.resolve(value)
  }
  const context: CommandContext = {
    environment: options.environment ?? {},
    settings: { stateDir: '/state', runtimeDir: '/run', logLevel: 'info', resolvConf: '/resolv.conf' },
    signal: options.signal ?? new AbortController().signal,
    isTerminal: options.isTerminal ?? false,
    wallMs: () => Date.UTC(2026, 0, 1, 12, 1, 0),
    writeOut: (line) => void recorded.out.push(line),
    writeError: (line) => void recorded.err.push(line),
    readInput: async () => options.input ?? '',
    connectDaemon: async (_settings, { start }) => {
      recorded.calls.push({ name: 'open', request: { start } })
      if (options.daemonRuns === false) throw new AbsentPeer('UNREACHABLE', 'no background process runs', 'nsm connect')
      return fakeDaemon(answer, recorded, options)
    },
    startServe: (request) => answer('serve', options.serve ?? endlessServe(), request),
    invite: (_settings, wanted) =>
      answer(
        'invite',
        {
          apiVersion: 'nsm/invite/v1',
          joinString: 'nsm://192.0.2.1:5001/?td=x&jt=y',
          spiffeId: 'spiffe://x/laptop',
          expiresMs: 0,
        } as const,
        wanted,
      ),
    caStatus: () =>
      answer('caStatus', { ...rotated, phase: 'issuing', finishMs: Date.UTC(2026, 0, 1, 12, 5) } as const),
    rotateRoot: (_settings, wanted) =>
      answer('rotateRoot', { ...rotated, phase: wanted.finish ? 'steady' : 'published' } as const, wanted),
    trustBundle: () => answer('trustBundle', '{"keys":[]}\n'),
    testPolicy: (_settings, asked) => answer('testPolicy', options.policyTest ?? granted, asked),
    checkPolicy: (_settings, path) => answer('checkPolicy', { ...checked, ...options.policyCheck }, path),
    obtainLogin: (joinString, { method, keep, show }) => {
      const code = method === 'device' ? { code: 'ABCD' } : {}
      if (options.isTerminal) show({ page: 'https://issuer.example/', ...code })
      const tokens = { idToken: 'canary.b.c', refreshToken: 'canary-refresh' }
      const where = { issuer: 'https://issuer.example', clientId: 'nsm-cli' }
      return answer('obtainLogin', { ...tokens, ...where }, { joinString, method, keep })
    },
    ...fakeDnsContext(answer, recorded.hangups),
    repairMachine: () => answer('repair', { repaired: ['interface nsm-1 removed'] }),
  }
  return { context, recorded }
}

const rotated = {
  trustDomain: 'x',
  nextMs: Date.UTC(2026, 0, 1, 12, 20, 0),
  roots: [
    { pin: 'sha256-one', notAfterMs: 1 },
    { pin: 'sha256-two', notAfterMs: 2 },
  ],
  domains: [
    { trustDomain: 'globex.example', profile: 'https_spiffe', roots: 1 },
    { trustDomain: 'initech.example', profile: 'https_web', roots: 0, error: 'no answer in time' },
  ],
} as const

function fakeDaemon(
  answer: <T>(name: string, value: T, request?: unknown) => Promise<T>,
  recorded: Recorded,
  options: FakeOptions,
): DaemonConnection {
  const { connections = [upView] } = options
  return {
    connect: (request: ConnectRequest, progress) => {
      progress({ phase: 'identity', state: 'started', elapsedMs: 0 })
      progress({ phase: 'identity', state: 'done', elapsedMs: 120, detail: 'spiffe://x/laptop' })
      const steps = [{ phase: 'identity', ms: 120 }]
      return answer(
        'connect',
        { apiVersion: 'nsm/connect/v1', connections, alreadyUp: false, steps, totalMs: 312 } as const,
        request,
      )
    },
    disconnect: (request: DisconnectRequest) =>
      answer(
        'disconnect',
        { apiVersion: 'nsm/disconnect/v1', disconnected: connections.map(({ service }) => service) } as const,
        request,
      ),
    status: () =>
      answer('status', {
        apiVersion: 'nsm/status/v1',
        running: true,
        identity: { spiffeId: 'spiffe://x/laptop', notAfterMs: Date.UTC(2026, 0, 1, 13, 0, 0) },
        connections,
        warnings: [],
      } as const),
    list: (request: ListRequest) =>
      answer(
        'list',
        {
          apiVersion: 'nsm/list/v1',
          services: [
            {
              name: 'my-networkservice-1',
              payload: 'IP',
              endpoints: [{ name: 'vl3-1', url: 'tcp://192.0.2.1:5001', expiresMs: 0 }],
            },
          ],
        } as const,
        request,
      ),
    version: () => answer('version', { version: '0.1.0', pid: 7 }),
    ...fakeDnsApi(answer),
    ...fakeTunnelApi(answer),
    ...fakeLoginApi(answer, options.identity, options.logout),
    close: async () => void recorded.closedDaemons++,
  }
}

function endlessServe(): ServeHandle {
  return {
    joinString: 'nsm://192.0.2.1:5001/?td=x&jt=y',
    failed: new Promise(() => {}),
    reload: async () => {},
    stop: async () => {},
  }
}
