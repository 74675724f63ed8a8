import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { dirname } from 'node:path'
import { text } from 'node:stream/consumers'
import { systemCode } from '../base/errors.ts'
import { makePrivateDir, readPrivateFile, removeFile, writeFileAtomic } from '../base/files.ts'
import { type SecretStore, storeFailed } from './secret-store.ts'

/** A secret as it is, in a file that only its owner reads. */
export function plainFile(path: string): SecretStore {
  return {
    async put(secret) {
      await makePrivateDir(dirname(path))
      await writeFileAtomic(path, secret)
    },
    get: () => readPrivateFile(path),
    remove: () => removeFile(path),
  }
}

/**
 * A secret in a file that systemd encrypts with the machine's key, in its TPM where it has one. A copy of the file alone is
 * worth nothing; root of this machine can always read it.
 */
export function sealedFile(path: string, program = 'systemd-creds'): SecretStore {
  const { put, get, remove } = plainFile(path)
  return {
    async put(secret) {
      await put(await runCreds(program, ['encrypt', nameFlag, '-', '-'], secret))
    },
    async get() {
      const sealed = await get()
      return sealed === undefined ? undefined : runCreds(program, ['decrypt', nameFlag, '-', '-'], sealed)
    },
    remove,
  }
}

/** Bound to the secret: another credential of the machine does not pass for it. */
const nameFlag = '--name=nsm-refresh-token'
/** Ours: a TPM takes a second. */
const credsTimeoutMs = 10_000

/** Secrets go in and out by pipes: other users see arguments and, of a process of theirs, the environment. */
async function runCreds(program: string, args: readonly string[], input: string): Promise<string> {
  const env = { PATH: '/usr/bin:/bin', LANG: 'C.UTF-8' }
  const child = spawn(program, args, { env, timeout: credsTimeoutMs, killSignal: 'SIGKILL' })
  const ended = once(child, 'close')
  ended.catch(() => {})
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  try {
    const [out, said] = await Promise.all([text(child.stdout), text(child.stderr), ended])
    if (child.exitCode === 0) return out
    throw storeFailed(lastLine(said) || 'systemd-creds failed')
  } catch (error) {
    throw systemCode(error) === 'ENOENT' ? storeFailed('this machine has no systemd-creds') : error
  }
}

function lastLine(said: string): string {
  return said.trim().split('\n').at(-1) ?? ''
}
