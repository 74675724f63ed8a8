import type { Audit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { writeFileAtomic } from '../base/files.ts'
import type { Log } from '../base/log.ts'
import type { Environment, Settings } from '../base/settings.ts'
import { createTurns } from '../base/turns.ts'
import { type EnrolledSource, type Exchange, enrol, openEnrolled, openEphemeral } from '../identity/enrolled.ts'
import { formatJoinString, type JoinString, joinLine, parseJoinString } from '../identity/join-string.ts'
import type { IdentitySource, IdentityState } from '../identity/source.ts'
import type { Target } from '../nsm/channel.ts'
import { exchangeIdToken, exchangeJoinToken, renewIdentity } from '../nsm/exchange.ts'
import { findDomain, type NameService } from '../nsm/interdomain-lookup.ts'
import { auditedLogin } from './audited-login.ts'
import { openDomainSession } from './domain-session.ts'
import type { IdentityResult, LoginApi, LoginRequest, LogoutRequest, LogoutResult } from './login-protocol.ts'
import { Logins } from './logins.ts'
import { findLeaving, logOut } from './logout.ts'
import { parseManager, resolveTarget } from './manager-address.ts'
import { createNameService } from './name-service.ts'
import { enrolmentPath, lastDomainPath } from './paths.ts'
import type { ConnectRequest } from './protocol.ts'
import { openSession, type Session, urlOf } from './session.ts'
import { readLastDomain, readStoredSvid } from './stored-identity.ts'
import { openSvid, svidKey } from './svid-source.ts'

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
  readonly audit?: Audit
  /** Asked for the servers of domains. */
  readonly names?: NameService
  /** Says where the keychain is; of this process by default. */
  readonly environment?: Environment
}

/** The sessions of this process, one per identity and manager; opened when needed, kept until the end. */
export class Sessions implements LoginApi {
  readonly #parts: SessionsParts
  readonly #open = new Map<string, Session>()
  /** The identities of sessions that were enrolled, by trust domain. */
  readonly #enrolled = new Map<string, EnrolledSource>()
  /** The trust domain whose identity is in memory only: what counts where nothing else is said. */
  #ephemeralDomain: string | undefined
  readonly #turns = createTurns()
  /** Of people, whose identities are renewed by them. */
  readonly logins: Logins

  constructor(parts: SessionsParts) {
    this.#parts = parts
    this.logins = new Logins(parts)
  }

  /**
   * The session for these credentials, the first that is there of: a join string (enrols unless that was done), SVID
   * files, the SPIFFE agent when it was asked for by name, what was joined last, the SPIFFE agent of this machine. One at a
   * time, so that a join token is used once. Throws `IDENTITY`, `USAGE`, `UNREACHABLE`.
   */
  open(credentials: Credentials, signal: AbortSignal): Promise<Session> {
    return this.#turns.run('sessions', () => this.#openNow(credentials, signal))
  }

  /**
   * Stores the identity that a login gives, and keeps the login. Ends every session, so nobody may be connected: `check`
   * throws when somebody is. A login that comes to nothing is taken back at its issuer.
   */
  login(
    { joinString, idToken, store, ...login }: LoginRequest,
    signal: AbortSignal,
    check = () => {},
  ): Promise<IdentityResult> {
    return this.#turns.run('sessions', async () => {
      const join = parseJoinString(joinLine(joinString))
      const { clock } = this.#parts
      const kept = this.logins.of(join.trustDomain)
      const exchange: Exchange = (csr, stop) => exchangeIdToken({ join, idToken, csr, clock }, stop)
      const replace = async () => {
        check()
        await this.close()
        this.#ephemeralDomain = undefined
        return this.#store(join, exchange, signal)
      }
      const { svid } = await replace().catch(async (error: unknown) => {
        await kept.discard(login)
        throw error
      })
      await kept.keep({ ...login, account: svid.spiffeId, choice: store })
      return this.whoami()
    })
  }

  /**
   * Forgets the identity in memory, or those that are stored and meant. Ends every session, so nobody may be connected.
   * Throws `USAGE` when several could be meant, `NOT_FOUND` for a name of none.
   */
  logout(request: LogoutRequest): Promise<LogoutResult> {
    return this.#turns.run('sessions', async () => {
      const inMemory = this.#ephemeralDomain
      const { spiffeId } = await this.whoami()
      const place = { settings: this.#parts.settings, logins: this.logins }
      const { whose = inMemory, all } = request
      const isStoredMeant = inMemory === undefined || whose !== inMemory || all
      const leaving = isStoredMeant ? await findLeaving(place, request) : undefined
      // With its session an identity in memory is gone, whoever else is meant.
      await this.close()
      this.#ephemeralDomain = undefined
      const stored = leaving ? await logOut(place, leaving) : nothingForgotten
      if (inMemory === undefined) return stored
      return { ...stored, forgotten: [spiffeId ?? inMemory, ...stored.forgotten] }
    })
  }

  async whoami(): Promise<IdentityResult> {
    const open = this.all().findLast(({ source }) => isCurrent(source))
    const svid = open?.source.current().svid ?? (await readStoredSvid(this.#parts.settings))
    if (!svid) return { apiVersion: 'nsm/whoami/v1' }
    const { spiffeId, notAfterMs } = svid
    const login = this.#ephemeralDomain === undefined ? await this.logins.view(spiffeId) : undefined
    return { apiVersion: 'nsm/whoami/v1', spiffeId, notAfterMs, ...(login ? { login } : {}) }
  }

  /**
   * Looks at a join string whose session may not be needed. Throws `USAGE` for one that cannot be read, `CONFLICT` for one
   * of another server, or a newer root, of a trust domain whose identity is in use.
   */
  check(joinString: string): void {
    const join = parseJoinString(joinLine(joinString))
    const source = this.#enrolled.get(join.trustDomain)
    if (source && !source.isFrom(join)) throw otherServer(join.trustDomain)
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
    const target = manager === undefined ? undefined : { ...parseManager(manager), domain: credentials.domain }
    const { tokenLifetimeMs, idToken } = credentials
    return this.#openEnrolled({ domain, join, target, tokenLifetimeMs, idToken }, signal)
  }

  async #openFiles(
    svidFiles: NonNullable<Credentials['svidFiles']>,
    whom: Whom,
    signal: AbortSignal,
  ): Promise<Session> {
    const way = await this.#wayTo(whom, signal)
    return this.#openFrom(`svid ${svidKey(svidFiles)}`, way, () => openSvid(svidFiles, this.#parts))
  }

  async #openWorkload(credentials: Credentials, socket: string, signal: AbortSignal): Promise<Session> {
    const { workloadHint: hint, workloadId: spiffeId } = credentials
    const way = await this.#wayTo(credentials, signal)
    const choice = { ...(hint === undefined ? {} : { hint }), ...(spiffeId === undefined ? {} : { spiffeId }) }
    return this.#openFrom(`workload ${socket} ${JSON.stringify(choice)}`, way, async () => {
      // Not before there is an agent to ask: the background process answers sooner without gRPC's client.
      const { openWorkloadApi } = await import('../nsm/workload-api.ts')
      return openWorkloadApi({ ...this.#parts, socket, choice, signal })
    })
  }

  async #openFrom(whence: string, way: Way, openSource: () => Promise<IdentitySource>): Promise<Session> {
    const key = `${whence} ${way.text}`
    const open = this.#open.get(key)
    if (open && isCurrent(open.source)) return open
    const source = await openSource()
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
      text: `${urlOf(target)} ${domain} ${tokenLifetimeMs}`,
      open: (source) => openSession({ ...this.#parts, target, source, domain, tokenLifetimeMs }),
    }
  }

  async #openEnrolled(
    wanted: {
      readonly domain: string
      readonly join: JoinString | undefined
      /** The named manager, and the domain of the wanted service. */
      readonly target: (Target & { readonly domain: string | undefined }) | undefined
      readonly tokenLifetimeMs: number | undefined
      readonly idToken: string | undefined
    },
    signal: AbortSignal,
  ): Promise<Session> {
    const { domain, join, tokenLifetimeMs, idToken } = wanted
    const { domain: asked } = wanted.target ?? {}
    const key = `enrolled ${domain} ${wanted.target ? `${urlOf(wanted.target)} ${asked}` : ''} ${tokenLifetimeMs}`
    const open = this.#open.get(key)
    const isSame = join === undefined || this.#enrolled.get(domain)?.isFrom(join) === true
    if (open && isSame && isCurrent(open.source)) return open
    const byToken = join?.token === undefined && idToken !== undefined ? idToken : undefined
    const source =
      byToken !== undefined && join
        ? await this.#showIdToken({ join, key, idToken: byToken }, signal)
        : ((await this.#openStored({ domain, join, key }, signal)) ?? (await this.#enrol(join, key, signal)))
    if (open) await open.close()
    this.#enrolled.set(domain, source)
    const { address, port } = join ?? parseJoinString(source.serverUrl)
    const target = await resolveTarget(wanted.target ?? { address, port })
    const server = wanted.target ? { address, port } : target
    const session = openSession({
      ...this.#parts,
      target,
      source,
      enrolled: { source, server },
      domain: asked,
      tokenLifetimeMs,
    })
    return this.#keep(key, session)
  }

  /** What is stored, unless it is another server's, or expired while there is a token for a new one. */
  async #openStored(
    wanted: { readonly domain: string; readonly join: JoinString | undefined; readonly key: string },
    signal: AbortSignal,
  ): Promise<EnrolledSource | undefined> {
    const { domain, join, key } = wanted
    const login = this.logins.of(domain)
    const source: EnrolledSource | undefined = await openEnrolled({
      ...this.#parts,
      statePath: enrolmentPath(this.#parts.settings, domain),
      renew: async (csr, stop) =>
        (await this.logins.tryToIssue(source?.serverUrl ?? '', csr, stop)) ??
        this.#renew(key, { csr, trustDomain: domain }, stop),
      outlives: () => login.isRenewable(),
    })
    if (!source) return undefined
    const isSame = join === undefined || source.isFrom(join)
    if (isSame && isCurrent(source)) return source
    await source.close()
    if (!isSame || join?.token !== undefined) return undefined
    await this.#revive(source.serverUrl, signal)
    return this.#openStored(wanted, signal)
  }

  /** Replaces an identity that expired while nothing ran, where its issuer renews the login. Throws `IDENTITY` where not. */
  async #revive(serverUrl: string, signal: AbortSignal): Promise<void> {
    const exchange: Exchange = async (csr, stop) => {
      const issued = await this.logins.issue(serverUrl, csr, stop)
      if (!issued) throw expired()
      return issued
    }
    await this.#store(parseJoinString(serverUrl), exchange, signal)
  }

  async #enrol(join: JoinString | undefined, key: string, signal: AbortSignal): Promise<EnrolledSource> {
    if (!join) throw noIdentity()
    const { clock } = this.#parts
    await this.#store(join, (csr, stop) => exchangeJoinToken({ join, csr, clock }, stop), signal)
    // What a join token gave is nobody's login.
    await this.logins.of(join.trustDomain).forget()
    const source = await this.#openStored({ domain: join.trustDomain, join: undefined, key }, signal)
    if (!source) throw noIdentity()
    return source
  }

  async #store(join: JoinString, exchange: Exchange, signal: AbortSignal): Promise<IdentityState> {
    const { settings, clock, audit } = this.#parts
    const { token: _, ...server } = join
    const { trustDomain } = join
    const statePath = enrolmentPath(settings, trustDomain)
    const serverUrl = formatJoinString(server)
    const ask = () => enrol({ statePath, serverUrl, clock, exchange, expect: join, signal })
    const state = await auditedLogin({ audit, trustDomain }, ask, ({ svid }) => svid.spiffeId)
    await writeFileAtomic(lastDomainPath(settings), `${trustDomain}\n`)
    return state
  }

  /** An identity for as long as this process lives: the platform gives the next process a token of its own. */
  async #showIdToken(
    { join, key, idToken }: { readonly join: JoinString; readonly key: string; readonly idToken: string },
    signal: AbortSignal,
  ): Promise<EnrolledSource> {
    const { clock, audit } = this.#parts
    const { trustDomain } = join
    const ask = () =>
      openEphemeral({
        ...this.#parts,
        serverUrl: formatJoinString(join),
        exchange: (csr, stop) => exchangeIdToken({ join, idToken, csr, clock }, stop),
        renew: (csr, stop) => this.#renew(key, { csr, trustDomain }, stop),
        expect: join,
        signal,
      })
    const source = await auditedLogin({ audit, trustDomain }, ask, (made) => made.current().svid.spiffeId)
    this.#ephemeralDomain = trustDomain
    return source
  }

  async #renew(key: string, wanted: { readonly csr: Uint8Array; readonly trustDomain: string }, signal: AbortSignal) {
    const session = this.#open.get(key)
    if (!session) throw noIdentity()
    return renewIdentity(session.home, wanted, signal)
  }

  #keep(key: string, session: Session): Session {
    this.#open.set(key, session)
    return session
  }
}

const nothingForgotten: LogoutResult = { apiVersion: 'nsm/logout/v1', forgotten: [] }

/** Who is asked. */
type Whom = Pick<Credentials, 'manager' | 'domain' | 'tokenLifetimeMs'>

interface Way {
  readonly text: string
  readonly open: (source: IdentitySource) => Session
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
    `the join string is of another server, or a newer root, than the identity of ${trustDomain} that is in use`,
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
