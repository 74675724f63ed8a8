import { createRequire } from 'node:module'
import { text } from 'node:stream/consumers'
import { inOneFile } from '../../base/parts.ts'
import { readSettings } from '../../base/settings.ts'
import { loadAddon } from '../../tunnel/sys/addon.ts'
import { type KeychainAnswer, type KeychainRequest, keychainService } from './protocol.ts'

/** The process that holds the add-on: answers one request from its standard input. */
export async function runKeychain(): Promise<void> {
  const request: KeychainRequest = JSON.parse(await text(process.stdin))
  process.stdout.write(JSON.stringify(answer(request)))
}

function answer({ action, account, secret = '' }: KeychainRequest): KeychainAnswer {
  try {
    const { Entry } = loadKeyring()
    // Not the kernel's keys, which the add-on takes where there is no keychain: those are gone after a restart.
    const entry = new Entry(keychainService, account, { linux: { store: 'secret-service' } })
    if (action === 'get') {
      const found = entry.getPassword()
      return found === null ? {} : { secret: found }
    }
    if (action === 'put') entry.setPassword(secret)
    else entry.deletePassword()
    return {}
  } catch (error) {
    return { error: error instanceof Error ? error.message : 'it failed' }
  }
}

/** The part of the add-on `@napi-rs/keyring` that is used. */
type Keyring = Pick<typeof import('@napi-rs/keyring'), 'Entry'>

/** Not every platform has the add-on: then there is no keychain, which is no failure of nsm. */
function loadKeyring(): Keyring {
  if (!inOneFile) return createRequire(import.meta.url)('@napi-rs/keyring')
  return loadAddon<Keyring>('keyring.node', readSettings(process.env, process.getuid?.() ?? 0)).exports
}
