import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { KeptLogin } from '../../src/daemon/kept-login.ts'
import { plainFile } from '../../src/identity/secret-files.ts'
import type { SecretStore } from '../../src/identity/secret-store.ts'
import { temporaryDir } from '../identity/fixtures.ts'
import { type IssuerAnswer, scriptedIssuer } from '../support/scripted-issuer.ts'

/* The login on its own: an issuer that answers as the test says, and a place that may be locked. */

const account = 'spiffe://acme.example/user/alice'
const never = new AbortController().signal
const away = () => Promise.reject(new NsmError('UNREACHABLE', 'the server is away', ''))

/** A place in memory that can be locked. */
class Place implements SecretStore {
  isLocked = false
  secret: string | undefined
  async put(secret: string) {
    this.#check()
    this.secret = secret
  }
  async get() {
    this.#check()
    return this.secret
  }
  async remove() {
    this.#check()
    this.secret = undefined
  }
  #check() {
    if (this.isLocked) throw new NsmError('NOT_READY', 'locked', 'unlock it')
  }
}

/** An issuer that takes each refresh token once, as the real ones do, and knows when one came twice. */
function rotating() {
  let valid = 'token-0'
  let count = 0
  const state = { reused: false, isAway: false, revoked: '' }
  const answer = async (form: URLSearchParams): Promise<IssuerAnswer> => {
    if (state.isAway) return 503
    if (form.get('refresh_token') !== valid) {
      state.reused = true
      return { error: 'invalid_grant' }
    }
    count += 1
    valid = `token-${count}`
    return { id_token: `id-${count}`, refresh_token: valid }
  }
  return { state, answer }
}

async function bench(answer: (form: URLSearchParams) => IssuerAnswer | Promise<IssuerAnswer> = rotating().answer) {
  const { url, forms } = await scriptedIssuer(({ endpoint, form }) => (endpoint === 'token' ? answer(form) : {}))
  const recordPath = join(temporaryDir(), 'identities', 'acme.example.login')
  const keychain = new Place()
  const file = plainFile(join(recordPath, '..', 'token'))
  const stores = { keychain, 'encrypted-file': new Place(), file }
  const open = () => new KeptLogin({ recordPath, storesOf: () => stores, log: silentLog })
  const login = { issuer: url, clientId: 'nsm-cli', refreshToken: 'token-0' }
  const kept = open()
  const record = await kept.keep({ ...login, account, choice: 'auto' })
  return { kept, open, recordPath, keychain, login, record, forms }
}

const shown = (kept: KeptLogin, signal = never) => kept.renew(async (idToken) => idToken, signal)

describe('a kept login', () => {
  test('has no secret in its record', async () => {
    const { recordPath, record, keychain } = await bench()
    expect(record).toMatchObject({ account, store: 'keychain', reasons: [] })
    expect([keychain.secret, readFileSync(recordPath, 'utf8').includes('token-0')]).toEqual(['token-0', false])
  })

  test.each(['', 'null', '[]', '{}', '{"version":1}', '{"version":2,"store":"keychain"}', '{"version":1,"store":"x"}'])(
    'is none when its record is %j',
    async (content) => {
      const { recordPath, open } = await bench()
      writeFileSync(recordPath, content)
      expect([await open().find(), await shown(open())]).toEqual([undefined, undefined])
    },
  )

  test('gives each caller a token of its own, one after the other, also to many at once', async () => {
    const { state, answer } = rotating()
    const { kept } = await bench(answer)
    const given = await Promise.all(Array.from({ length: 8 }, () => shown(kept)))
    expect(given).toEqual([1, 2, 3, 4, 5, 6, 7, 8].map((number) => `id-${number}`))
    expect(state.reused).toBe(false)
  })

  test('shows a token again that the server has not seen, and no other one that it refused', async () => {
    const { kept, forms } = await bench()
    await expect(kept.renew(away, never)).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect(kept.trouble).toBe('the server is away')
    await expect(kept.renew(away, never)).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect([await shown(kept), forms('token').length, kept.trouble]).toEqual(['id-1', 1, undefined])
    const refusing = () => Promise.reject(new NsmError('REFUSED', 'no rule', ''))
    await expect(kept.renew(refusing, never)).rejects.toMatchObject({ code: 'REFUSED' })
    expect(await shown(kept)).toBe('id-3')
  })

  test('ends a wait with its signal, and a rotation under way is not lost', async () => {
    const { state, answer } = rotating()
    const { promise: held, resolve: letAnswer } = Promise.withResolvers<void>()
    const { kept, keychain, forms } = await bench(async (form) => {
      await held
      return answer(form)
    })
    const stop = new AbortController()
    const ended = shown(kept, stop.signal)
    await expect.poll(() => forms('token').length).toBe(1)
    stop.abort(new NsmError('LOST', 'closed', ''))
    await expect(ended).rejects.toMatchObject({ code: 'LOST' })
    letAnswer()
    await expect.poll(() => keychain.secret).toBe('token-1')
    expect([await shown(kept), await shown(kept), state.reused]).toEqual(['id-1', 'id-2', false])
  })

  test('whose place is locked when the next token comes goes on from memory, and puts it away later', async () => {
    const { state, answer } = rotating()
    const { kept, keychain } = await bench(async (form) => {
      keychain.isLocked = true
      return answer(form)
    })
    expect([await shown(kept), await shown(kept)]).toEqual(['id-1', 'id-2'])
    expect(keychain.secret).toBe('token-0')
    keychain.isLocked = false
    await expect(kept.renew(away, never)).rejects.toMatchObject({ code: 'UNREACHABLE' })
    expect(state.reused).toBe(false)
  })

  test('whose place is locked or empty says so, and is not given up', async () => {
    const { kept, keychain, open } = await bench()
    keychain.isLocked = true
    await expect(shown(kept)).rejects.toMatchObject({ code: 'NOT_READY', message: 'keychain: locked' })
    expect([kept.trouble, await kept.isRenewable()]).toEqual(['keychain: locked', true])
    keychain.isLocked = false
    expect(await shown(open())).toBe('id-1')
    keychain.secret = undefined
    await expect(shown(kept)).rejects.toMatchObject({ message: expect.stringContaining('no longer in the keychain') })
  })

  test('that the issuer refuses is asked for no more, by the next process neither', async () => {
    const { kept, open, keychain, forms } = await bench(() => ({ error: 'invalid_grant' }))
    await expect(shown(kept)).rejects.toMatchObject({
      code: 'IDENTITY',
      message: expect.stringContaining('invalid_grant'),
    })
    for (const one of [kept, open()]) {
      expect([await shown(one), await one.isRenewable()]).toEqual([undefined, false])
    }
    expect([keychain.secret, forms('token').length]).toEqual([undefined, 1])
    expect(await open().find()).toMatchObject({ store: 'none', refused: 'invalid_grant' })
  })

  test('that is refused while its place is locked says that it is refused', async () => {
    const { kept, keychain } = await bench(() => {
      keychain.isLocked = true
      return { error: 'invalid_grant' }
    })
    await expect(shown(kept)).rejects.toMatchObject({ code: 'IDENTITY' })
    expect(await kept.find()).toMatchObject({ store: 'none', refused: 'invalid_grant' })
  })

  test('that is forgotten is taken back with the token that counts, and tells what stays behind', async () => {
    const { kept, keychain, recordPath, forms } = await bench()
    await shown(kept)
    expect(await kept.forget()).toEqual([])
    expect([forms('revocation').map((form) => form.get('token')), keychain.secret]).toEqual([['token-1'], undefined])
    expect([existsSync(recordPath), await kept.forget()]).toEqual([false, []])

    const locked = await bench()
    locked.keychain.isLocked = true
    expect(await locked.kept.forget()).toEqual([
      'the issuer is not told: keychain: locked',
      'the refresh token may still be in the keychain: locked',
    ])
    expect(existsSync(locked.recordPath)).toBe(false)
  })

  test('that is forgotten leaves no file, also where its record is broken', async () => {
    const { kept, recordPath, login } = await bench()
    await kept.keep({ ...login, account, choice: 'file' })
    const token = join(recordPath, '..', 'token')
    expect(readFileSync(token, 'utf8')).toBe('token-0')
    writeFileSync(recordPath, '{')
    expect(await kept.forget()).toEqual([])
    expect([existsSync(recordPath), existsSync(token)]).toEqual([false, false])
  })

  test('that came to nothing is taken back only when no other one of that issuer is kept', async () => {
    const { kept, login, forms } = await bench()
    await kept.discard({ ...login, refreshToken: 'of-a-refused-login' })
    expect(forms('revocation')).toEqual([])
    await kept.forget()
    await kept.discard({ ...login, refreshToken: 'of-a-refused-login' })
    await kept.discard({ ...login, refreshToken: undefined })
    expect(forms('revocation').map((form) => form.get('token'))).toEqual(['token-0', 'of-a-refused-login'])
  })

  test('that cannot be put on record is taken back', async () => {
    const { kept, recordPath, login, forms } = await bench()
    rmSync(recordPath)
    mkdirSync(recordPath)
    const keep = kept.keep({ ...login, refreshToken: 'of-no-record', account, choice: 'auto' })
    await expect(keep).rejects.toThrow('EISDIR')
    expect(forms('revocation').map((form) => form.get('token'))).toEqual(['of-no-record'])
  })

  test('never shows a refresh token twice, whatever fails in whatever order', async () => {
    type Step = 'renew' | 'server away' | 'issuer away' | 'locked' | 'many' | 'stopped'
    const steps = fc.array(fc.constantFrom<Step>('renew', 'server away', 'issuer away', 'locked', 'many', 'stopped'), {
      maxLength: 12,
    })
    await fc.assert(
      fc.asyncProperty(steps, async (order) => {
        const { state, answer } = rotating()
        const { kept, keychain } = await bench(answer)
        for (const step of order) {
          state.isAway = step === 'issuer away'
          keychain.isLocked = step === 'locked'
          const stop = new AbortController()
          const calls = Array.from({ length: step === 'many' ? 3 : 1 }, () =>
            step === 'server away' ? kept.renew(away, never) : shown(kept, stop.signal),
          )
          if (step === 'stopped') stop.abort(new NsmError('LOST', 'closed', ''))
          await Promise.allSettled(calls)
        }
        state.isAway = false
        keychain.isLocked = false
        expect([await shown(kept), state.reused]).toEqual([expect.stringMatching(/^id-/), false])
      }),
      { numRuns: 40 },
    )
  })
})
