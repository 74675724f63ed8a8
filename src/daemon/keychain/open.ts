import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { type JsonObject, readJsonObject } from '../../base/json.ts'
import type { Environment } from '../../base/settings.ts'
import { type SecretStore, storeFailed } from '../../identity/secret-store.ts'
import { ownProgram } from '../start.ts'
import type { KeychainRequest } from './protocol.ts'
import { findSessionBus } from './session-bus.ts'

/** How the keychain is reached; doubles in tests. */
export interface KeychainParts {
  readonly environment: Environment
  /** Program and arguments of the process that holds the add-on. */
  readonly program?: readonly [string, ...string[]]
  readonly timeoutMs?: number
}

/**
 * The keychain of the user that this process runs as. Each call is a process of its own: the add-on waits without end for a
 * bus or a person that does not answer, and nothing else may wait with it. Throws `NOT_READY` when there is no keychain, or
 * it is locked and nobody unlocks it in time.
 */
export function openKeychain(account: string, parts: KeychainParts): SecretStore {
  return {
    put: async (secret) => void (await ask({ action: 'put', account, secret }, parts)),
    async get() {
      const { secret } = await ask({ action: 'get', account }, parts)
      return typeof secret === 'string' ? secret : undefined
    },
    remove: async () => void (await ask({ action: 'remove', account }, parts)),
  }
}

/** Ours: time enough to type the password of a keychain. */
const askTimeoutMs = 20_000

async function ask(request: KeychainRequest, parts: KeychainParts): Promise<JsonObject> {
  const { program = ownProgram('keychain'), timeoutMs = askTimeoutMs } = parts
  const [command, ...args] = program
  const env = await environmentOf(parts.environment)
  const child = spawn(command, args, {
    env,
    timeout: timeoutMs,
    killSignal: 'SIGKILL',
    stdio: ['pipe', 'pipe', 'ignore'],
  })
  const ended = once(child, 'close')
  ended.catch(() => {})
  child.stdin.on('error', () => {})
  child.stdin.end(JSON.stringify(request))
  const [said] = await Promise.all([text(child.stdout), ended]).catch((error: unknown) => {
    throw storeFailed('the process for the keychain cannot be started', error)
  })
  if (child.signalCode !== null) throw storeFailed(`it does not answer within ${timeoutMs / 1_000} s: is it locked?`)
  return read(said)
}

function read(said: string): JsonObject {
  const answer = readJsonObject(said)
  if (!answer) throw storeFailed('the process for the keychain ended without an answer')
  if (typeof answer['error'] === 'string') throw storeFailed(answer['error'])
  return answer
}

/** What our own program needs, then what the systems look up the user's folder by. */
const passedOn = [
  ...['PATH', 'NODE_COMPILE_CACHE', 'NSM_STATE_DIR', 'NSM_RUNTIME_DIR'],
  ...['HOME', 'XDG_RUNTIME_DIR', 'SystemRoot', 'USERPROFILE', 'APPDATA', 'LOCALAPPDATA'],
]

/** On Linux the keychain is behind the D-Bus session; elsewhere the system knows whose it is. */
async function environmentOf(environment: Environment): Promise<NodeJS.ProcessEnv> {
  const env = Object.fromEntries(passedOn.map((name) => [name, environment[name]]))
  if (process.platform !== 'linux') return env
  const bus = await findSessionBus(environment, process.getuid?.() ?? 0)
  if (bus === undefined) throw storeFailed('there is no D-Bus session of this user')
  return { ...env, DBUS_SESSION_BUS_ADDRESS: bus }
}
