import { describe, expect, test } from 'vitest'
import { refreshLogin, revokeLogin } from '../../src/identity/oidc-refresh.ts'
import { type IssuerAnswer, scriptedIssuer } from '../support/scripted-issuer.ts'

/* The answers that a real provider does not give on demand; it itself is in test/daemon/logins.test.ts. */

async function refreshed(answer: IssuerAnswer) {
  const { url, forms } = await scriptedIssuer(() => answer)
  const result = await refreshLogin({ url, clientId: 'nsm-cli', scopes: [] }, 'canary').catch((error: Error) => error)
  return { result, form: Object.fromEntries(forms('token')[0] ?? []) }
}

test('refreshLogin asks as a public client and takes what comes with the ID token', async () => {
  const { result, form } = await refreshed({ id_token: 'a.b.c', refresh_token: 'next', access_token: 'x' })
  expect(result).toEqual({ tokens: { idToken: 'a.b.c', refreshToken: 'next' } })
  expect(form).toEqual({ grant_type: 'refresh_token', client_id: 'nsm-cli', refresh_token: 'canary' })
  const same = await refreshed({ id_token: 'a.b.c', refresh_token: 5 })
  expect(same.result).toEqual({ tokens: { idToken: 'a.b.c', refreshToken: undefined } })
})

test.each([
  ...['invalid_request', 'invalid_client', 'invalid_grant', 'unauthorized_client', 'unsupported_grant_type'],
  'invalid_scope',
])('refreshLogin is refused for good by %s [RFC 6749 5.2]', async (error) => {
  expect((await refreshed({ error })).result).toEqual({ refused: error })
})

test('refreshLogin is refused for good by an issuer that renews no ID token', async () => {
  expect((await refreshed({ access_token: 'x', refresh_token: 'y' })).result).toEqual({ refused: 'no_id_token' })
})

test.each([[{ error: 'server_error' }], [{ error: 'canary <b>' }], [{ error: 5 }], [[]], [{}], [500], [429], [200]])(
  'refreshLogin asks again later after %j, and quotes no secret',
  async (answer) => {
    const { result } = await refreshed(answer)
    expect(result).toMatchObject({ code: 'UNREACHABLE' })
    expect(String(result)).not.toContain('canary')
  },
)

describe('an answer of the issuer that gets lost', () => {
  const refresh = async (answers: IssuerAnswer[]) => {
    const { url, forms } = await scriptedIssuer(() => answers.shift() ?? 500)
    const result = await refreshLogin({ url, clientId: 'nsm-cli', scopes: [] }, 'canary').catch((error: Error) => error)
    return { result, shown: forms('token').map((form) => form.get('refresh_token')) }
  }

  test('is asked for once more at once, with the same refresh token', async () => {
    const { result, shown } = await refresh(['lost', { id_token: 'a.b.c', refresh_token: 'next' }])
    expect(result).toEqual({ tokens: { idToken: 'a.b.c', refreshToken: 'next' } })
    expect(shown).toEqual(['canary', 'canary'])
  })

  test('ends the login at an issuer that takes the second question for theft', async () => {
    expect((await refresh(['lost', { error: 'invalid_grant' }])).result).toEqual({ refused: 'invalid_grant' })
  })

  test('is not asked for a third time', async () => {
    const { result, shown } = await refresh(['lost', 'lost', { id_token: 'a.b.c' }])
    expect(result).toMatchObject({ code: 'UNREACHABLE' })
    expect(shown).toHaveLength(2)
  })
})

test('refreshLogin neither follows the issuer elsewhere nor reads without end', async () => {
  for (const location of ['http://127.0.0.1:1/', 'http://169.254.169.254/']) {
    const elsewhere = await refreshed(new Response(null, { status: 302, headers: { location } }))
    expect(elsewhere.result).toMatchObject({ code: 'UNREACHABLE' })
  }
  const endless = await refreshed({ id_token: 'x'.repeat(1_048_577) })
  expect(endless.result).toMatchObject({ code: 'UNREACHABLE', message: expect.stringContaining('too long') })
})

test('revokeLogin names the token and its kind, and takes any answer', async () => {
  for (const answer of [{}, { error: 'unsupported_token_type' }, 503]) {
    const { url, forms } = await scriptedIssuer(() => answer)
    await revokeLogin({ url, clientId: 'nsm-cli', scopes: [] }, 'canary')
    expect(Object.fromEntries(forms('revocation')[0] ?? [])).toEqual({
      ...{ token: 'canary', token_type_hint: 'refresh_token', client_id: 'nsm-cli' },
    })
  }
})
