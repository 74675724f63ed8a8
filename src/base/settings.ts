import { homedir } from 'node:os'
import { join } from 'node:path'

/** Where things are on this machine; flag > environment > default, resolved once at the border. */
export interface Settings {
  /** Survives restarts: identity, connections, journal, certificate authority. Mode 0700. */
  readonly stateDir: string
  /** Sockets; gone at reboot. Mode 0755 for root, 0700 for others. */
  readonly runtimeDir: string
  readonly logLevel: 'error' | 'warn' | 'info' | 'debug'
  /** The system's resolver file. */
  readonly resolvConf: string
}

/** Environment variables as a plain record. */
export type Environment = Readonly<Record<string, string | undefined>>

/** Reads the settings from the environment of a process with user id `uid`. */
export function readSettings(environment: Environment, uid: number): Settings {
  const level = environment['NSM_LOG_LEVEL']?.toLowerCase()
  return {
    stateDir: environment['NSM_STATE_DIR'] ?? defaultStateDir(environment, uid),
    runtimeDir: environment['NSM_RUNTIME_DIR'] ?? defaultRuntimeDir(environment, uid),
    logLevel: level === 'error' || level === 'warn' || level === 'debug' ? level : 'info',
    resolvConf: environment['NSM_RESOLV_CONF'] ?? '/etc/resolv.conf',
  }
}

function defaultStateDir(environment: Environment, uid: number): string {
  if (uid === 0) return '/var/lib/nsm'
  const state = environment['XDG_STATE_HOME'] ?? join(environment['HOME'] ?? homedir(), '.local', 'state')
  return join(state, 'nsm')
}

function defaultRuntimeDir(environment: Environment, uid: number): string {
  if (uid === 0) return '/run/nsm'
  const runtime = environment['XDG_RUNTIME_DIR']
  return runtime ? join(runtime, 'nsm') : join(defaultStateDir(environment, uid), 'run')
}
