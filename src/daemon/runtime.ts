import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { type Audit, noAudit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError, toNsmError } from '../base/errors.ts'
import { makePrivateDir } from '../base/files.ts'
import type { Log } from '../base/log.ts'
import { programVersion } from '../base/program-version.ts'
import type { Settings } from '../base/settings.ts'
import { withSignal } from '../base/with-signal.ts'
import { type Connected, Connections } from '../connection/connections.ts'
import { createJournal } from '../connection/journal.ts'
import { type Machine, thisMachine } from '../connection/machine.ts'
import { createNames, type Names } from '../connection/names.ts'
import { openConnectionStore } from '../connection/store.ts'
import { serviceText, type Wanted } from '../connection/wanted.ts'
import { bareName } from '../nsm/interdomain.ts'
import { Applications } from './applications.ts'
import { createDnsApi } from './dns-methods.ts'
import { listServices } from './list-services.ts'
import { createNameService } from './name-service.ts'
import { workloadSocketPath } from './paths.ts'
import type { ConnectRequest, ConnectResult, DaemonApi, DnsView, ProgressStep, StatusResult } from './protocol.ts'
import { reach } from './reach.ts'
import type { Session } from './session.ts'
import { Sessions } from './sessions.ts'
import { Steps } from './steps.ts'
import { createTunnelApi } from './tunnel-methods.ts'
import { tunnelMachine } from './tunnel-open.ts'
import { serviceNames, wantedServices } from './wanted-services.ts'

/** The client side, wired: what the background process serves. */
export type Runtime = DaemonApi & {
  /** Disconnects everything and puts the machine back. */
  close(): Promise<void>
}

/** Everything the runtime is made from; `machine` is a double in tests. */
export interface RuntimeSettings {
  readonly settings: Settings
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
  /** The number of connections changed. */
  readonly onCount: (count: number) => void
  readonly machine?: Machine
}

/** Wires identity, NSM client, tunnels and names once. Opens nothing on the machine until the first connect. */
export async function startRuntime(parts: RuntimeSettings): Promise<Runtime> {
  const { settings, clock, log, audit = noAudit, onCount, machine = thisMachine } = parts
  const { stateDir } = settings
  await makePrivateDir(stateDir)
  const store = await openConnectionStore({ stateDir, hostName: hostLabel(), randomId, log })
  const names = createNames({ settings, clock, log })
  const journal = createJournal(stateDir)
  const held = { connections: 0, tunnels: 0 }
  const hold = (what: keyof typeof held) => (count: number) => {
    held[what] = count
    onCount(held.connections + held.tunnels)
    if (what === 'connections') void applications.follow()
  }
  const shared = { machine, names, store, journal, clock, log, audit, random: Math.random }
  const connections = new Connections({ ...shared, onCount: hold('connections') })
  const tunnels = createTunnelApi({ machine: tunnelMachine, names, journal, clock, log, onCount: hold('tunnels') })
  const applications: Applications = new Applications({
    path: workloadSocketPath(settings),
    sources: () => sessions.all().flatMap((one) => (connections.sessions.has(one) ? [one.source] : [])),
    clock,
    log,
    audit,
  })
  const nameService = createNameService(() => names.upstreams())
  const sessions = new Sessions({ settings, clock, log, audit, names: nameService })
  const wiring: Wiring = { connections, sessions, applications, names, machine, clock, stopping: new AbortController() }
  return {
    connect: (request, progress, signal) => connect(wiring, { request, progress, signal }),
    async disconnect({ services, force }) {
      const disconnected = await connections.disconnect(serviceNames(services), force)
      await applications.follow()
      return { apiVersion: 'nsm/disconnect/v1', disconnected }
    },
    status: () => status(wiring),
    list: async (request, signal) => listServices(await sessions.open({}, signal), request, signal),
    version: async () => ({ version: programVersion(), pid: process.pid }),
    login: (request, signal) => sessions.login(request, signal, () => checkNotConnected(connections)),
    async logout(request) {
      checkNotConnected(connections)
      return sessions.logout(request)
    },
    whoami: () => sessions.whoami(),
    ...createDnsApi(names),
    ...tunnels,
    async close() {
      wiring.stopping.abort(new NsmError('LOST', 'the background process ends', '`nsm connect` starts it again'))
      await Promise.all([connections.close(), tunnels.close()])
      await applications.close()
      await names.close()
      await sessions.close()
    },
  }
}

/** Another identity does not take over what this one has connected. */
function checkNotConnected(connections: Connections): void {
  if (connections.isEmpty) return
  throw new NsmError('CONFLICT', 'the identity is in use by connections', 'leave them first: nsm disconnect')
}

interface Wiring {
  readonly connections: Connections
  readonly sessions: Sessions
  readonly applications: Applications
  readonly names: Names
  readonly machine: Machine
  readonly clock: Clock
  readonly stopping: AbortController
}

interface Call {
  readonly request: ConnectRequest
  readonly progress: (step: ProgressStep) => void
  readonly signal: AbortSignal
}

async function connect(wiring: Wiring, call: Call): Promise<ConnectResult> {
  const { applications } = wiring
  const request = applications.withAgent(call.request)
  const wanted = wantedServices(request)
  // A service that is up needs no session; what was given is read all the same.
  if (request.joinString !== undefined && wiring.connections.sessions.size > 0)
    wiring.sessions.check(request.joinString)
  const steps = new Steps(wiring.clock, call.progress)
  const late = new AbortController()
  const cancel = wiring.clock.after(request.timeoutMs, () => late.abort(steps.deadline(request.timeoutMs)))
  const signal = AbortSignal.any([call.signal, late.signal, wiring.stopping.signal])
  try {
    const connected = await connectAll(wiring, { wanted, request, steps }, signal)
    if (request.applicationUid !== undefined) applications.admit(request.applicationUid)
    await applications.follow()
    const spiffeSocket = applications.address
    return {
      apiVersion: 'nsm/connect/v1',
      connections: connected.map(({ view }) => view),
      alreadyUp: connected.every(({ isNew }) => !isNew),
      steps: steps.times(),
      totalMs: steps.elapsedMs,
      ...(spiffeSocket === undefined ? {} : { spiffeSocket }),
    }
  } finally {
    cancel()
  }
}

interface Plan {
  readonly wanted: readonly Wanted[]
  readonly request: ConnectRequest
  readonly steps: Steps
}

/** All services at once; when one fails, the ones this call has connected are left again. */
async function connectAll(wiring: Wiring, plan: Plan, signal: AbortSignal): Promise<Connected[]> {
  const opened = new Map<string | undefined, () => Promise<Session>>()
  const sessionFor = ({ domain }: Wanted) => {
    const session = opened.get(domain) ?? once(() => openSession(wiring, { plan, domain }, signal))
    opened.set(domain, session)
    return session
  }
  const results = await Promise.allSettled(
    plan.wanted.map((wanted) => connectOne(wiring, { wanted, plan, session: sessionFor(wanted) }, signal)),
  )
  const connected = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
  const failed = results.find((result) => result.status === 'rejected')
  if (!failed) return connected
  const fresh = connected.filter(({ isNew }) => isNew).map(({ view }) => view.service)
  if (fresh.length > 0) await wiring.connections.disconnect(fresh, false)
  throw toNsmError(failed.reason)
}

async function openSession(
  wiring: Wiring,
  { plan, domain }: { readonly plan: Plan; readonly domain: string | undefined },
  signal: AbortSignal,
): Promise<Session> {
  const { request, steps } = plan
  steps.note({ phase: 'identity', state: 'started' })
  // The packet thread and the listener for names come up meanwhile.
  wiring.machine.prepareTunnel().catch(() => {})
  if (request.dns === 'auto') wiring.names.prepare()
  const credentials = domain === undefined ? request : { ...request, domain }
  const session = await withSignal(wiring.sessions.open(credentials, signal), signal)
  const { dialTimeoutMs: limitMs } = request
  if (limitMs !== undefined) await reach(session.url, { clock: wiring.clock, limitMs }, signal)
  steps.note({ phase: 'identity', state: 'done', detail: session.source.current().svid.spiffeId })
  return session
}

function connectOne(
  { connections }: Wiring,
  { wanted, plan, session }: { readonly wanted: Wanted; readonly plan: Plan; readonly session: () => Promise<Session> },
  signal: AbortSignal,
): Promise<Connected> {
  const { steps } = plan
  const service = serviceText(wanted)
  return connections.connect(
    {
      wanted,
      session: async () => {
        const opened = await session()
        void lookUpService({ session: opened, service, steps }, signal)
        return opened
      },
      progress: (phase, state, detail) => steps.note({ phase, state, service, ...(detail ? { detail } : {}) }),
    },
    signal,
  )
}

/** Beside the request, never before it: the manager finds the endpoint itself, this only tells the user what is there. */
async function lookUpService(
  { session, service, steps }: { readonly session: Session; readonly service: string; readonly steps: Steps },
  signal: AbortSignal,
): Promise<void> {
  steps.note({ phase: 'registry', state: 'started', service })
  const endpoints = await session.registry
    .findEndpoints({ networkServiceNames: [session.domain === undefined ? service : bareName(service)] }, signal)
    .catch(() => undefined)
  const count = endpoints?.length
  const detail = count === undefined ? 'no answer' : `${count} endpoint${count === 1 ? '' : 's'}`
  steps.note({ phase: 'registry', state: 'done', service, detail })
}

async function status({ connections, sessions, applications, names }: Wiring): Promise<StatusResult> {
  const states = sessions.all().flatMap(({ source }) => {
    try {
      return [source.current().svid]
    } catch {
      return []
    }
  })
  const svid = states.at(-1)
  const views = await connections.views()
  const dns = names.status()
  const spiffeSocket = applications.address
  return {
    apiVersion: 'nsm/status/v1',
    running: true,
    ...(svid ? { identity: { spiffeId: svid.spiffeId, notAfterMs: svid.notAfterMs } } : {}),
    ...(spiffeSocket === undefined ? {} : { spiffeSocket }),
    connections: views,
    ...(dns ? { dns: { listening: dns.listening, scopes: dns.scopes.map(scopeView) } } : {}),
    warnings: [
      ...views.flatMap(({ service, error }) => (error ? [`${service}: ${error.message}`] : [])),
      ...applications.warnings,
      ...(sessions.all().length > states.length ? ['an identity of this machine is expired'] : []),
      ...(await sessions.logins.warnings()),
    ],
  }
}

function scopeView({ suffix, mode, servers }: DnsView['scopes'][number]): DnsView['scopes'][number] {
  return { suffix, mode, servers }
}

function once<T>(work: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined
  return () => {
    result ??= work()
    return result
  }
}

function hostLabel(): string {
  return (hostname().split('.')[0] ?? '').toLowerCase().replace(/[^a-z0-9-]/g, '-') || 'host'
}

function randomId(): string {
  return randomBytes(4).toString('hex')
}
