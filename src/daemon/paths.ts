import { join } from 'node:path'
import type { Settings } from '../base/settings.ts'

type Dirs = Pick<Settings, 'stateDir' | 'runtimeDir'>

/** The background process's socket [security L1]. */
export const socketPath = (settings: Pick<Settings, 'runtimeDir'>): string => join(settings.runtimeDir, 'nsm.sock')

/** Held by the one background process of a runtime directory. */
export const lockPath = (settings: Pick<Settings, 'runtimeDir'>): string => join(settings.runtimeDir, 'nsm.lock')

/** Held by the one background process of a state directory. */
export const stateLockPath = (settings: Pick<Settings, 'stateDir'>): string => join(settings.stateDir, 'daemon.lock')

/** Where applications get their identity: the SPIFFE Workload API. */
export const workloadSocketPath = (settings: Pick<Settings, 'runtimeDir'>): string =>
  join(settings.runtimeDir, 'workload.sock')

/** The running server's socket for `nsm invite`. */
export const servePath = (settings: Pick<Settings, 'runtimeDir'>): string => join(settings.runtimeDir, 'serve.sock')

/** Log of the background process. */
export const logPath = (settings: Dirs): string => join(settings.stateDir, 'daemon.log')

/** What an auditor gets of the background process. */
export const auditPath = (settings: Dirs): string => join(settings.stateDir, 'audit.jsonl')

/** What an auditor gets of a server. */
export const serveAuditPath = (settings: Pick<Dirs, 'stateDir'>): string => join(settings.stateDir, 'serve-audit.jsonl')

/** The identity that a server of a trust domain gave. */
export const enrolmentPath = (settings: Dirs, trustDomain: string): string =>
  join(settings.stateDir, 'identities', `${trustDomain}.json`)

/** Holds the trust domain that was joined last: what `nsm connect` uses without `--join`. */
export const lastDomainPath = (settings: Dirs): string => join(settings.stateDir, 'identities', 'last')

/**
 * Where the login of a trust domain is renewed, and where its refresh token rests; holds no secret. A trust domain may end in any
 * word, so the names of identities, logins and tokens differ in what follows it.
 */
export const loginPath = (settings: Dirs, trustDomain: string): string =>
  join(settings.stateDir, 'identities', `${trustDomain}.login`)

/** The refresh token of a trust domain, where it rests in a file. */
export const refreshTokenPath = (settings: Dirs, trustDomain: string): string =>
  join(settings.stateDir, 'identities', `${trustDomain}.refresh-token`)

/** Held by the one server of a runtime directory. */
export const serveLockPath = (settings: Pick<Settings, 'runtimeDir'>): string => join(settings.runtimeDir, 'serve.lock')
