import type { Environment, Settings } from '../base/settings.ts'
import { plainFile, sealedFile } from '../identity/secret-files.ts'
import type { SecretStores } from '../identity/secret-store.ts'
import { openKeychain } from './keychain/open.ts'
import { refreshTokenPath } from './paths.ts'

/** The places for the refresh token of one account of a trust domain; nothing is opened before it is used. */
export function loginStores(
  place: { readonly settings: Settings; readonly trustDomain: string; readonly environment: Environment },
  account: string,
): SecretStores {
  const { settings, trustDomain, environment } = place
  const path = refreshTokenPath(settings, trustDomain)
  return {
    // Two state folders of one user are two machines to the server, each with a login of its own.
    keychain: openKeychain(`${account} ${settings.stateDir}`, { environment }),
    'encrypted-file': sealedFile(`${path}.sealed`),
    file: plainFile(path),
  }
}
