import type { Clock } from '../base/clock.ts'
import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import type { Environment, Settings } from '../base/settings.ts'
import { parseJoinString } from '../identity/join-string.ts'
import type { IssuedSvid } from '../identity/source.ts'
import { exchangeIdToken } from '../nsm/exchange.ts'
import { KeptLogin } from './kept-login.ts'
import type { LoginView } from './login-protocol.ts'
import type { LoginRecord } from './login-record.ts'
import { loginStores } from './login-stores.ts'
import { loginPath } from './paths.ts'
import { readLastDomain } from './stored-identity.ts'

/** Everything logins are made from. */
export interface LoginsParts {
  readonly settings: Settings
  readonly clock: Clock
  readonly log: Log
  /** Says where the keychain is; of this process by default. */
  readonly environment?: Environment
}

/** The logins of people on this machine, one for each trust domain, and the identities that they give anew. */
export class Logins {
  readonly #parts: LoginsParts
  readonly #kept = new Map<string, KeptLogin>()

  constructor(parts: LoginsParts) {
    this.#parts = parts
  }

  /** The login to a trust domain; nothing is kept in it until somebody logs in. */
  of(trustDomain: string): KeptLogin {
    const known = this.#kept.get(trustDomain)
    if (known) return known
    const { settings, log, environment = process.env } = this.#parts
    const storesOf = (account: string) => loginStores({ settings, trustDomain, environment }, account)
    const made = new KeptLogin({ recordPath: loginPath(settings, trustDomain), storesOf, log })
    this.#kept.set(trustDomain, made)
    return made
  }

  /** A fresh identity from the server that gave the one before; undefined where no login is kept. Throws as the login does. */
  issue(serverUrl: string, csr: Uint8Array, signal: AbortSignal): Promise<IssuedSvid | undefined> {
    const join = parseJoinString(serverUrl)
    const show = (idToken: string) => exchangeIdToken({ join, idToken, csr, clock: this.#parts.clock }, signal)
    return this.of(join.trustDomain).renew(show, signal)
  }

  /** As `issue`, but undefined also where the login fails: another way to renew is left. */
  async tryToIssue(serverUrl: string, csr: Uint8Array, signal: AbortSignal): Promise<IssuedSvid | undefined> {
    try {
      return await this.issue(serverUrl, csr, signal)
    } catch (error) {
      signal.throwIfAborted()
      this.#parts.log.warn('the login is not renewed', { error: toNsmError(error).message })
      return undefined
    }
  }

  /** The login that gave the identity which is used where nothing else is said. */
  async view(spiffeId: string): Promise<LoginView | undefined> {
    const record = await this.#last()
    if (record?.account !== spiffeId) return undefined
    const { issuer, store, reasons, refused } = record
    return { issuer, store, reasons, ...(refused === undefined ? {} : { refused }) }
  }

  /** What a person has to know about that login, or do for it. */
  async warnings(): Promise<readonly string[]> {
    const record = await this.#last()
    if (record?.refused !== undefined) {
      return [`log in again with nsm login: ${record.issuer} renews the login no more (${record.refused})`]
    }
    const troubles = [...this.#kept.values()].flatMap(({ trouble }) => trouble ?? [])
    return troubles.map((trouble) => `the login is not renewed, trying again: ${trouble}`)
  }

  async #last(): Promise<LoginRecord | undefined> {
    const domain = await readLastDomain(this.#parts.settings)
    return domain === undefined ? undefined : this.of(domain).find()
  }
}
