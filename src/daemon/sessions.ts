import { lookup } from 'node:dns/promises'
import { isIP } from 'node:net'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { readPrivateFile, writeFileAtomic } from '../base/files.ts'
import type { Log } from '../base/log.ts'
import type { Settings } from '../base/settings.ts'
import { type EnrolledSource, enrol, openEnrolled } from '../identity/enrolled.ts'
import { identityFromPem } from '../identity/files.ts'
import { createFixedSource } from '../identity/fixed-source.ts'
import { formatJoinString, type JoinString, parseJoinString } from '../identity/join-string.ts'
import { parseSpiffeId } from '../identity/spiffe-id.ts'
import type { Target } from '../nsm/channel.ts'
import { exchangeJoinToken, renewIdentity } from '../nsm/exchange.ts'
import { openWorkloadApi } from '../nsm/workload-api.ts'
import { enrolmentPath, lastDomainPath } from './paths.ts'
import type { ConnectRequest } from './protocol.ts'
import { openSession, type Session } from './session.ts'

/** How a request says who asks and whom. */
export type Credentials = Pick<
  ConnectRequest,
  'joinString' | 'manager' | 'svidFiles' | 'workloadSocket' | 'workloadHint' | 'workloadId' | 'workloadFirst'
>

/** Everything sessions are made from. */
export interface SessionsParts {
  readonly settings: Settings
  readonly clock: Clock
  readonly log: Log
}

/** The sessions of this process, one per identity and manager; opened when needed, kept until the end. */
export class Sessions {
  readonly #parts: SessionsParts
  readonly #open = new Map<string, Session>()
  #last: Promise<unknown> = Promise.resolve()

  constructor(parts: SessionsParts) {
    this.#parts = parts
  }

  /**
   * The session for these credentials, the first that is there of: a join string (enrols unless that was done), SVID
   * files, the SPIFFE agent when it was asked for by name, what was joined last, the SPIFFE agent of this machine. One at a
   * time, so that a join token is used once. Throws `IDENTITY`, `USAGE`, `UNREACHABLE`.
   */
  open(credentials: Credentials, signal: AbortSignal): Promise<Session> {
    const mine = this.#last.then(() => this.#openNow(credentials, signal))
    this.#last = mine.catch(() => {})
    return mine
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
    if (!join && svidFiles) return this.#openFiles(svidFiles, manager)
    if (!join && workloadFirst && workloadSocket !== undefined)
      return this.#openWorkload(credentials, workloadSocket, signal)
    const domain = join?.trustDomain ?? (await readPrivateFile(lastDomainPath(this.#parts.settings)))?.trim()
    if (!domain && workloadSocket !== undefined) return this.#openWorkload(credentials, workloadSocket, signal)
    if (!domain) throw noIdentity()
    const target = manager === undefined ? undefined : parseManager(manager)
    return this.#openEnrolled({ domain, join, target }, signal)
  }

  async #openFiles(svidFiles: NonNullable<Credentials['svidFiles']>, manager: string | undefined): Promise<Session> {
    const target = await resolveTarget(parseManager(manager ?? noManager()))
    const state = identityFromPem(svidFiles, this.#parts.clock.wallMs())
    const key = `${manager} ${state.svid.spiffeId} ${state.svid.notAfterMs}`
    return (
      this.#open.get(key) ?? this.#keep(key, openSession({ ...this.#parts, target, source: createFixedSource(state) }))
    )
  }

  async #openWorkload(credentials: Credentials, socket: string, signal: AbortSignal): Promise<Session> {
    const { manager, workloadHint: hint, workloadId: spiffeId } = credentials
    const target = await resolveTarget(parseManager(manager ?? noManager()))
    const choice = { ...(hint === undefined ? {} : { hint }), ...(spiffeId === undefined ? {} : { spiffeId }) }
    const key = `workload ${socket} ${JSON.stringify(choice)} ${target.address}:${target.port}`
    const open = this.#open.get(key)
    if (open && isCurrent(open.source)) return open
    const source = await openWorkloadApi({ ...this.#parts, socket, choice, signal })
    if (open) await open.close()
    return this.#keep(key, openSession({ ...this.#parts, target, source }))
  }

  async #openEnrolled(
    wanted: { readonly domain: string; readonly join: JoinString | undefined; readonly target: Target | undefined },
    signal: AbortSignal,
  ): Promise<Session> {
    const { domain, join } = wanted
    const key = `enrolled ${domain} ${wanted.target ? `${wanted.target.address}:${wanted.target.port}` : ''}`
    const open = this.#open.get(key)
    if (open && isUsable(open, join)) return open
    const source = (await this.#openStored(domain, join, key)) ?? (await this.#enrol(join, key, signal))
    if (open) await open.close()
    const server =
      wanted.target ?? (join ? { address: join.address, port: join.port } : parseJoinString(source.serverUrl))
    return this.#keep(key, openSession({ ...this.#parts, target: await resolveTarget(server), source }))
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
    const { settings, clock } = this.#parts
    const { token: _, ...server } = join
    await enrol({
      statePath: enrolmentPath(settings, join.trustDomain),
      serverUrl: formatJoinString(server),
      clock,
      exchange: (csr, stop) => exchangeJoinToken({ join, csr, clock }, stop),
      expect: join,
      signal,
    })
    await writeFileAtomic(lastDomainPath(settings), `${join.trustDomain}\n`)
    const source = await this.#openStored(join.trustDomain, undefined, key)
    if (!source) throw noIdentity()
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

/** The line of a join file that counts: the others are blank or begin with `#`. */
export function joinLine(text: string): string {
  return (
    text
      .split('\n')
      .map((line) => line.trim())
      .find((line) => line !== '' && !line.startsWith('#')) ?? ''
  )
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
    'write it like tcp://host:5001',
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
  throw new NsmError('USAGE', 'an SVID alone does not say whom to ask', 'name the manager: --manager tcp://host:port')
}

function isUsable(session: Session, join: JoinString | undefined): boolean {
  if (!isCurrent(session.source)) return false
  if (join === undefined) return true
  const { svid } = session.source.current()
  return parseSpiffeId(svid.spiffeId).trustDomain === join.trustDomain
}

function isCurrent(source: Pick<EnrolledSource, 'current'>): boolean {
  try {
    source.current()
    return true
  } catch {
    return false
  }
}

function noIdentity(): NsmError {
  return new NsmError(
    'IDENTITY',
    'this machine has no identity',
    'run `nsm invite` on the server and `nsm connect --join FILE` here',
  )
}

function expired(): NsmError {
  return new NsmError(
    'IDENTITY',
    'the identity of this machine is expired',
    'run `nsm invite` on the server and `nsm connect --join FILE` here',
  )
}
