import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { writeFileAtomic } from '../base/files.ts'
import type { Log } from '../base/log.ts'
import type { Settings } from '../base/settings.ts'
import { createTurns } from '../base/turns.ts'
import { type EnrolledSource, type Exchange, enrol, openEnrolled, openEphemeral } from '../identity/enrolled.ts'
import { identityFromPem } from '../identity/files.ts'
import { createFixedSource } from '../identity/fixed-source.ts'
import { formatJoinString, type JoinString, joinLine, parseJoinString } from '../identity/join-string.ts'
import type { IdentitySource } from '../identity/source.ts'
import type { Target } from '../nsm/channel.ts'
import { exchangeIdToken, exchangeJoinToken, renewIdentity } from '../nsm/exchange.ts'
import { findDomain, type NameService } from '../nsm/interdomain-lookup.ts'
import { openWorkloadApi } from '../nsm/workload-api.ts'
import { openDomainSession } from './domain-session.ts'
import type { IdentityResult, LoginApi, LoginRequest } from './login-protocol.ts'
import { createNameService } from './name-service.ts'
import { enrolmentPath, lastDomainPath } from './paths.ts'
import type { ConnectRequest } from './protocol.ts'
import { openSession, type Session, urlOf } from './session.ts'
import { forgetStored, readLastDomain, readStoredSvid } from './stored-identity.ts'

/** How a request says who asks and whom. */
export type Credentials = Pick<
  ConnectRequest,
  | 'joinString'
  | 'idToken'
  | 'manager'
  | 'svidFiles'
  | 'workloadSocket'
  | 'workloadHint'
  | 'workloadId'
  | 'workloadFirst'
  | 'tokenLifetimeMs'
> & {
  /** The domain of the wanted service: who has no manager asks that domain's servers. */
  readonly domain?: string
}

/** Everything sessions are made from. */
export interface SessionsParts {
  readonly settings: Settings
  readonly clock: Clock
  readonly log: Log
  /** Asked for the servers of domains. */
  readonly names?: NameService
}

/** The sessions of this process, one per identity and manager; opened when needed, kept until the end. */
export class Sessions implements LoginApi {
  readonly #parts: SessionsParts
  readonly #open = new Map<string, Session>()
  /** The root keys of the servers that sessions were enrolled with, by trust domain. */
  readonly #pins = new Map<string, string>()
  /** The trust domain whose identity is in memory only: what counts where nothing else is said. */
  #ephemeralDomain: string | undefined
  readonly #turns = createTurns()

  constructor(parts: SessionsParts) {
    this.#parts = parts
  }

  /**
   * The session for these credentials, the first that is there of: a join string (enrols unless that was done), SVID
   * files, the SPIFFE agent when it was asked for by name, what was joined last, the SPIFFE agent of this machine. One at a
   * time, so that a join token is used once. Throws `IDENTITY`, `USAGE`, `UNREACHABLE`.
   */
  open(credentials: Credentials, signal: AbortSignal): Promise<Session> {
    return this.#turns.run('sessions', () => this.#openNow(credentials, signal))
  }

  /** Stores the identity that an ID token gives. Ends every session, so nobody may be connected. */
  login({ joinString, idToken }: LoginRequest, signal: AbortSignal): Promise<IdentityResult> {
    return this.#turns.run('sessions', async () => {
      const join = parseJoinString(joinLine(joinString))
      const { clock } = this.#parts
      await this.close()
      this.#ephemeralDomain = undefined
      await this.#store(join, (csr, stop) => exchangeIdToken({ join, idToken, csr, clock }, stop), signal)
      return this.whoami()
    })
  }

  /** Forgets the identity that was stored last, or that is in memory. Ends every session, so nobody may be connected. */
  logout(): Promise<IdentityResult> {
    return this.#turns.run('sessions', async () => {
      const who = await this.whoami()
      await this.close()
      if (this.#ephemeralDomain === undefined) await forgetStored(this.#parts.settings)
      this.#ephemeralDomain = undefined
      return who
    })
  }

  async whoami(): Promise<IdentityResult> {
    const open = this.all().findLast(({ source }) => isCurrent(source))
    const svid = open?.source.current().svid ?? (await readStoredSvid(this.#parts.settings))
    const who = svid ? { spiffeId: svid.spiffeId, notAfterMs: svid.notAfterMs } : {}
    return { apiVersion: 'nsm/whoami/v1', ...who }
  }

  /**
   * Looks at a join string whose session may not be needed. Throws `USAGE` for one that cannot be read, `CONFLICT` for one
   * of another server of a trust domain whose server is in use.
   */
  check(joinString: string): void {
    const join = parseJoinString(joinLine(joinString))
    const pin = this.#pins.get(join.trustDomain)
    if (pin !== undefined && pin !== join.pin) throw otherServer(join.trustDomain)
  }

  /** The sessions that are open, the newest last. */
  all(): readonly Session[] {
    return [...this.#open.values()]
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open.values()].map((session) => session.close()))
    this.#open.clear()
  }

  async #openNow(credentials: Credentials, signal: AbortSignal): Promise<Session> {
    const { joinString, svidFiles, manager, workloadSocket, workloadFirst } = credentials
    const join = joinString === undefined ? undefined : parseJoinString(joinLine(joinString))
    if (!join && svidFiles) return this.#openFiles(svidFiles, credentials, signal)
    if (!join && workloadFirst && workloadSocket !== undefined)
      return this.#openWorkload(credentials, workloadSocket, signal)
    const domain = join?.trustDomain ?? this.#ephemeralDomain ?? (await readLastDomain(this.#parts.settings))
    if (!domain && workloadSocket !== undefined) return this.#openWorkload(credentials, workloadSocket, signal)
    if (!domain) throw noIdentity()
    const target = manager === undefined ? undefined : parseManager(manager)
    const { tokenLifetimeMs, idToken } = credentials
    return this.#openEnrolled({ domain, join, target, tokenLifetimeMs, idToken }, signal)
  }

  async #openFiles(
    svidFiles: NonNullable<Credentials['svidFiles']>,
    whom: Whom,
    signal: AbortSignal,
  ): Promise<Session> {
    const way = await this.#wayTo(whom, signal)
    const state = identityFromPem(svidFiles, this.#parts.clock.wallMs())
    const key = `${way.text} ${state.svid.spiffeId} ${state.svid.notAfterMs}`
    return this.#open.get(key) ?? this.#keep(key, way.open(createFixedSource(state)))
  }

  async #openWorkload(credentials: Credentials, socket: string, signal: AbortSignal): Promise<Session> {
    const { workloadHint: hint, workloadId: spiffeId } = credentials
    const way = await this.#wayTo(credentials, signal)
    const choice = { ...(hint === undefined ? {} : { hint }), ...(spiffeId === undefined ? {} : { spiffeId }) }
    const key = `workload ${socket} ${JSON.stringify(choice)} ${way.text}`
    const open = this.#open.get(key)
    if (open && isCurrent(open.source)) return open
    const source = await openWorkloadApi({ ...this.#parts, socket, choice, signal })
    if (open) await open.close()
    return this.#keep(key, way.open(source))
  }

  /** The named manager; without one, the servers of the domain. Throws `USAGE` when there is neither. */
  async #wayTo({ manager, domain, tokenLifetimeMs }: Whom, signal: AbortSignal): Promise<Way> {
    const { clock, names = createNameService() } = this.#parts
    if (manager === undefined && domain !== undefined) {
      const servers = await findDomain(domain, names, signal)
      const text = `${domain} ${urlOf(servers.manager)} ${urlOf(servers.registry)} ${tokenLifetimeMs}`
      return { text, open: (source) => openDomainSession({ domain, servers, source, clock, tokenLifetimeMs }) }
    }
    const target = await resolveTarget(parseManager(manager ?? noManager()))
    return {
      text: `${urlOf(target)} ${tokenLifetimeMs}`,
      open: (source) => openSession({ ...this.#parts, target, source, tokenLifetimeMs }),
    }
  }

  async #openEnrolled(
    wanted: {
      readonly domain: string
      readonly join: JoinString | undefined
      readonly target: Target | undefined
      readonly tokenLifetimeMs: number | undefined
      readonly idToken: string | undefined
    },
    signal: AbortSignal,
  ): Promise<Session> {
    const { domain, join, tokenLifetimeMs, idToken } = wanted
    const key = `enrolled ${domain} ${wanted.target ? urlOf(wanted.target) : ''} ${tokenLifetimeMs}`
    const open = this.#open.get(key)
    const isSame = join === undefined || this.#pins.get(domain) === join.pin
    if (open && isSame && isCurrent(open.source)) return open
    const byToken = join?.token === undefined && idToken !== undefined ? idToken : undefined
    const source =
      byToken !== undefined && join
        ? await this.#showIdToken({ join, key, idToken: byToken }, signal)
        : ((await this.#openStored(domain, join, key)) ?? (await this.#enrol(join, key, signal)))
    if (open) await open.close()
    this.#pins.set(domain, parseJoinString(source.serverUrl).pin)
    const server =
      wanted.target ?? (join ? { address: join.address, port: join.port } : parseJoinString(source.serverUrl))
    return this.#keep(
      key,
      openSession({ ...this.#parts, target: await resolveTarget(server), source, tokenLifetimeMs }),
    )
  }

  /** What is stored, unless it is expired or another server's. */
  async #openStored(domain: string, join: JoinString | undefined, key: string): Promise<EnrolledSource | undefined> {
    const source = await openEnrolled({
      ...this.#parts,
      statePath: enrolmentPath(this.#parts.settings, domain),
      renew: (csr, signal) => this.#renew(key, { csr, trustDomain: domain }, signal),
    })
    if (!source) return undefined
    const isSame = join === undefined || parseJoinString(source.serverUrl).pin === join.pin
    const isAlive = isCurrent(source)
    if (isSame && (isAlive || join?.token === undefined)) {
      if (isAlive) return source
      await source.close()
      throw expired()
    }
    await source.close()
    return undefined
  }

  async #enrol(join: JoinString | undefined, key: string, signal: AbortSignal): Promise<EnrolledSource> {
    if (!join) throw noIdentity()
    const { clock } = this.#parts
    await this.#store(join, (csr, stop) => exchangeJoinToken({ join, csr, clock }, stop), signal)
    const source = await this.#openStored(join.trustDomain, undefined, key)
    if (!source) throw noIdentity()
    return source
  }

  async #store(join: JoinString, exchange: Exchange, signal: AbortSignal): Promise<void> {
    const { settings, clock } = this.#parts
    const { token: _, ...server } = join
    await enrol({
      statePath: enrolmentPath(settings, join.trustDomain),
      serverUrl: formatJoinString(server),
      clock,
      exchange,
      expect: join,
      signal,
    })
    await writeFileAtomic(lastDomainPath(settings), `${join.trustDomain}\n`)
  }

  /** An identity for as long as this process lives: the platform gives the next process a token of its own. */
  async #showIdToken(
    { join, key, idToken }: { readonly join: JoinString; readonly key: string; readonly idToken: string },
    signal: AbortSignal,
  ): Promise<EnrolledSource> {
    const { clock } = this.#parts
    const { trustDomain } = join
    const source = await openEphemeral({
      ...this.#parts,
      serverUrl: formatJoinString(join),
      exchange: (csr, stop) => exchangeIdToken({ join, idToken, csr, clock }, stop),
      renew: (csr, stop) => this.#renew(key, { csr, trustDomain }, stop),
      expect: join,
      signal,
    })
    this.#ephemeralDomain = trustDomain
    return source
  }

  async #renew(key: string, wanted: { readonly csr: Uint8Array; readonly trustDomain: string }, signal: AbortSignal) {
    const session = this.#open.get(key)
    if (!session) throw noIdentity()
    return renewIdentity(session.channel, wanted, signal)
  }

  #keep(key: string, session: Session): Session {
    this.#open.set(key, session)
    return session
  }
}

/** Who is asked. */
type Whom = Pick<Credentials, 'manager' | 'domain' | 'tokenLifetimeMs'>

interface Way {
  readonly text: string
  readonly open: (source: IdentitySource) => Session
}

/** Reads `tcp://host:port`, the scheme may be left out; throws `USAGE`. */
export function parseManager(text: string): Target {
  const found = /^(?:tcp:\/\/)?(?:\[([0-9a-fA-F:.]+)\]|([^:/[\]]+)):(\d{1,5})\/?$/.exec(text.trim())
  const port = Number(found?.[3])
  const address = found?.[1] ?? found?.[2]
  if (address !== undefined && port >= 1 && port <= 65_535) return { address, port }
  throw new NsmError(
    'USAGE',
    `"${text.slice(0, 128)}" is not the address of a manager`,
    text.startsWith('unix:')
      ? "a manager's socket takes only pods of its node: name its TCP address, like tcp://node:5001"
      : 'write it like tcp://host:5001',
  )
}

/** An address, not a name: routes and excluded prefixes need it, and it stays the same when names change. */
async function resolveTarget(target: Target): Promise<Target> {
  if (isIP(target.address) !== 0) return { address: target.address, port: target.port }
  const { address } = await lookup(target.address).catch((cause: unknown) => {
    throw new NsmError('UNREACHABLE', `the name ${target.address} is not known`, 'check the name of the server', {
      cause,
    })
  })
  return { address, port: target.port }
}

function noManager(): never {
  throw new NsmError(
    'USAGE',
    'an SVID alone does not say whom to ask',
    'name the manager: --manager tcp://host:port, or the domain: service@domain',
  )
}

function isCurrent(source: Pick<EnrolledSource, 'current'>): boolean {
  try {
    source.current()
    return true
  } catch {
    return false
  }
}

function otherServer(trustDomain: string): NsmError {
  return new NsmError(
    'CONFLICT',
    `the join string is of another server than the one of ${trustDomain} that is in use`,
    'leave that one first: nsm disconnect',
  )
}

const howToJoin = 'run `nsm invite` on the server and `nsm connect --join FILE` here, or `nsm login`'

function noIdentity(): NsmError {
  return new NsmError('IDENTITY', 'this machine has no identity', howToJoin)
}

function expired(): NsmError {
  return new NsmError('IDENTITY', 'the identity of this machine is expired', howToJoin)
}
