import { toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { createTurns } from '../base/turns.ts'
import { withSignal } from '../base/with-signal.ts'
import { loginFailed } from '../identity/oidc-provider.ts'
import { refreshLogin, revokeLogin } from '../identity/oidc-refresh.ts'
import { putAway, type SecretStores, type StoreChoice, storeFailed, storeNames } from '../identity/secret-store.ts'
import { type LoginRecord, loadLoginRecord, removeLoginRecord, saveLoginRecord } from './login-record.ts'

/** A login at an issuer. */
export interface IssuerLogin {
  readonly issuer: string
  readonly clientId: string
  readonly refreshToken?: string | undefined
}

/** A login, whose it is and where its refresh token may rest. */
type KeepRequest = IssuerLogin & { readonly account: string; readonly choice: StoreChoice }

/** Everything a kept login is made from. */
export interface KeptLoginParts {
  readonly recordPath: string
  /** The places of the refresh token. */
  readonly storesOf: (account: string) => SecretStores
  readonly log: Log
}

/** The login of a person to one trust domain: a fresh ID token whenever it is needed, as long as the issuer gives one. */
export class KeptLogin {
  readonly #parts: KeptLoginParts
  readonly #turns = createTurns()
  /** A rotated refresh token that the place did not take: the one before is worth nothing any more. */
  #unsaved: string | undefined
  /** An ID token that the server has not seen, because it did not answer. */
  #unshown: string | undefined
  #trouble: string | undefined

  constructor(parts: KeptLoginParts) {
    this.#parts = parts
  }

  /** Puts a login away, in the place of the one before; one that cannot be kept is taken back at its issuer. */
  keep(login: KeepRequest): Promise<LoginRecord> {
    return this.#inTurn(() =>
      this.#keep(login).catch(async (error: unknown) => {
        await this.#revoke(login)
        throw error
      }),
    )
  }

  async #keep({ refreshToken, choice, ...who }: KeepRequest): Promise<LoginRecord> {
    const before = await this.find()
    // Tokens of one person at one issuer may be tied together there: taking back the old one would end the new one.
    const isSame = before?.issuer === who.issuer && before.account === who.account
    await this.#forget(isSame ? 'here' : 'everywhere')
    const put =
      refreshToken === undefined
        ? { store: 'none' as const, reasons: choice === 'none' ? [] : ['the issuer gave no refresh token'] }
        : await putAway(this.#parts.storesOf(who.account), refreshToken, choice)
    if (put.store === 'none') await this.#revoke({ ...who, refreshToken })
    const record = { ...who, ...put }
    await saveLoginRecord(this.#parts.recordPath, record)
    this.#parts.log.info('login kept', { issuer: record.issuer, store: record.store })
    return record
  }

  /** What is kept, without its secret. */
  find(): Promise<LoginRecord | undefined> {
    return loadLoginRecord(this.#parts.recordPath)
  }

  /** True while a fresh ID token may be had. */
  async isRenewable(): Promise<boolean> {
    const record = await this.find()
    return record !== undefined && record.store !== 'none'
  }

  /** Takes a login back that came to nothing, unless it may be tied to the one that is kept. */
  async discard(login: IssuerLogin): Promise<void> {
    const kept = await this.find()
    if (kept?.issuer !== login.issuer) await this.#revoke(login)
  }

  /**
   * Calls `show` with a fresh ID token and gives its outcome; undefined where none can be had. Throws `IDENTITY` when the
   * issuer refuses for good, `UNREACHABLE`, `NOT_READY` when the place of the refresh token is locked, and what `show`
   * throws. One at a time: a refresh token is good once. The signal ends the wait, not a rotation that is under way.
   */
  renew<T>(show: (idToken: string) => Promise<T>, signal: AbortSignal): Promise<T | undefined> {
    const work = this.#inTurn(async () => {
      signal.throwIfAborted()
      const idToken = this.#unshown ?? (await this.#refresh())
      this.#unshown = idToken
      signal.throwIfAborted()
      return idToken === undefined ? undefined : this.#show(idToken, show)
    })
    const told = work.then(
      (shown) => {
        this.#trouble = undefined
        return shown
      },
      (error: unknown) => {
        if (!signal.aborted) this.#trouble = toNsmError(error).message
        throw error
      },
    )
    return withSignal(told, signal)
  }

  /** Why the last renewal failed; undefined when it did not. */
  get trouble(): string | undefined {
    return this.#trouble
  }

  /** Takes the login back at its issuer and removes it from this machine; tells what did not succeed. */
  forget(): Promise<readonly string[]> {
    return this.#inTurn(() => this.#forget('everywhere'))
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    return this.#turns.run('', work)
  }

  async #show<T>(idToken: string, show: (idToken: string) => Promise<T>): Promise<T> {
    try {
      const shown = await show(idToken)
      this.#unshown = undefined
      return shown
    } catch (error) {
      if (toNsmError(error).code !== 'UNREACHABLE') this.#unshown = undefined
      throw error
    }
  }

  async #refresh(): Promise<string | undefined> {
    const record = await this.find()
    if (!record || record.store === 'none') return undefined
    const refreshToken = this.#unsaved ?? (await this.#stored(record))
    const refreshed = await refreshLogin({ url: record.issuer, clientId: record.clientId, scopes: [] }, refreshToken)
    if ('refused' in refreshed) {
      const { refused } = refreshed
      await this.#forget('here')
      await saveLoginRecord(this.#parts.recordPath, { ...record, store: 'none', refused })
      throw loginFailed(`${record.issuer} does not renew the login (${refused})`)
    }
    const { idToken, refreshToken: next } = refreshed.tokens
    this.#unsaved = next ?? this.#unsaved
    if (this.#unsaved !== undefined) await this.#save(record)
    return idToken
  }

  async #stored({ account, store }: LoginRecord): Promise<string> {
    if (store === 'none') throw storeFailed('no refresh token is kept')
    const found = await this.#parts
      .storesOf(account)
      [store].get()
      .catch((error: unknown) => {
        throw storeFailed(`${store}: ${toNsmError(error).message}`, error)
      })
    if (found === undefined) throw storeFailed(`the refresh token is no longer in the ${store}`)
    return found
  }

  /** The ID token counts also when the place is locked meanwhile: the refresh token then waits in memory. */
  async #save({ account, store }: LoginRecord): Promise<void> {
    const refreshToken = this.#unsaved
    if (refreshToken === undefined || store === 'none') return
    try {
      await this.#parts.storesOf(account)[store].put(refreshToken)
      this.#unsaved = undefined
    } catch (error) {
      this.#parts.log.warn('the login is not stored', { store, error: toNsmError(error).message })
    }
  }

  async #forget(where: 'here' | 'everywhere'): Promise<readonly string[]> {
    const record = await this.find()
    const failures: string[] = []
    const attempt = (what: string, work: Promise<void>) =>
      work.catch((error: unknown) => void failures.push(`${what}: ${toNsmError(error).message}`))
    if (where === 'everywhere' && record && record.store !== 'none') {
      await attempt('the issuer is not told', this.#revokeStored(record))
    }
    const stores = this.#parts.storesOf(record?.account ?? '')
    // Files also where no record speaks of them; a keychain is not opened for nothing.
    for (const name of storeNames.filter((one) => one !== 'keychain' || one === record?.store)) {
      await attempt(`the refresh token may still be in the ${name}`, stores[name].remove())
    }
    this.#unsaved = undefined
    this.#unshown = undefined
    this.#trouble = undefined
    await removeLoginRecord(this.#parts.recordPath)
    return failures
  }

  async #revokeStored(record: LoginRecord): Promise<void> {
    const refreshToken = this.#unsaved ?? (await this.#stored(record))
    await revokeLogin({ url: record.issuer, clientId: record.clientId, scopes: [] }, refreshToken)
  }

  async #revoke({ issuer, clientId, refreshToken }: IssuerLogin): Promise<void> {
    if (refreshToken === undefined) return
    await revokeLogin({ url: issuer, clientId, scopes: [] }, refreshToken).catch((error: unknown) =>
      this.#parts.log.warn('the issuer is not told that a login is over', { error: toNsmError(error).message }),
    )
  }
}
