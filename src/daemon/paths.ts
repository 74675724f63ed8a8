import { join } from 'node:path'
import type { Settings } from '../base/settings.ts'

type Dirs = Pick<Settings, 'stateDir' | 'runtimeDir'>

/** The background process's socket [security L1]. */
export const socketPath = (settings: Pick<Settings, 'runtimeDir'>): string => join(settings.runtimeDir, 'nsm.sock')

/** Held by the one background process of a runtime directory. */
export const lockPath = (settings: Pick<Settings, 'runtimeDir'>): string => join(settings.runtimeDir, 'nsm.lock')

/** The running server's socket for `nsm invite`. */
export const servePath = (settings: Pick<Settings, 'runtimeDir'>): string => join(settings.runtimeDir, 'serve.sock')

/** Log of the background process. */
export const logPath = (settings: Dirs): string => join(settings.stateDir, 'daemon.log')

/** The identity that a server of a trust domain gave. */
export const enrolmentPath = (settings: Dirs, trustDomain: string): string =>
  join(settings.stateDir, 'identities', `${trustDomain}.json`)

/** Holds the trust domain that was joined last: what `nsm connect` uses without `--join`. */
export const lastDomainPath = (settings: Dirs): string => join(settings.stateDir, 'identities', 'last')

/** Held by the one server of a runtime directory. */
export const serveLockPath = (settings: Pick<Settings, 'runtimeDir'>): string => join(settings.runtimeDir, 'serve.lock')
