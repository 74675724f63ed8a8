import { expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { type DevicePrompt, loginByDevice } from '../../src/identity/oidc-device-flow.ts'
import { scriptedIssuer } from '../support/scripted-issuer.ts'

/* What the real provider does not do on demand: a slow, a late and a hostile issuer. */

const begun = { device_code: 'canary', user_code: 'ABCD', verification_uri: 'https://issuer.example/device' }

/** An issuer that begins a login with a document and then gives these answers, the last one again and again. */
async function issuerOf(beginning: object, answers: readonly object[]) {
  let asked = 0
  const issuer = await scriptedIssuer(({ endpoint }) =>
    endpoint === 'token' ? (answers[asked++] ?? answers.at(-1) ?? {}) : beginning,
  )
  return { url: issuer.url, forms: () => issuer.forms('token') }
}

/** Logs in on a clock whose waits take no time but count. */
async function login(url: string) {
  const waits: number[] = []
  const prompts: DevicePrompt[] = []
  const clock = {
    ...systemClock,
    monotonicMs: () => waits.reduce((sum, wait) => sum + wait, 0),
    after: (delayMs: number, action: () => void) => {
      waits.push(delayMs)
      return systemClock.after(0, action)
    },
  }
  const show = (prompt: DevicePrompt) => void prompts.push(prompt)
  const signal = AbortSignal.timeout(120_000)
  const ended = loginByDevice({ url, clientId: 'nsm-cli', scopes: ['openid'] }, { show, clock, signal })
  return { result: await ended.catch((error: Error) => error), waits, prompts }
}

test('loginByDevice asks at the interval of the issuer, and 5 s slower each time it is told so', async () => {
  const answers = [
    { error: 'authorization_pending' },
    { error: 'slow_down' },
    { error: 'slow_down' },
    { id_token: 'a.b.c' },
  ]
  const { url, forms } = await issuerOf({ ...begun, interval: 2, expires_in: 600 }, answers)
  const { result, waits, prompts } = await login(url)
  expect(result).toEqual({ idToken: 'a.b.c', refreshToken: undefined })
  expect(waits).toEqual([2_000, 2_000, 7_000, 12_000])
  expect(prompts).toEqual([{ page: begun.verification_uri, code: 'ABCD' }])
  expect(Object.fromEntries(forms()[0] ?? [])).toEqual({
    client_id: 'nsm-cli',
    grant_type: 'urn:ietf:params:oauth:grant-type:device_code',
    device_code: 'canary',
  })
})

test('loginByDevice lives through a network that fails meanwhile, and asks half as often after it', async () => {
  const broken = new Response(null, { headers: { 'content-length': '100', connection: 'close' } })
  const pending = { error: 'authorization_pending' }
  const { url } = await issuerOf({ ...begun, interval: 2 }, [broken, broken, pending, { id_token: 'a.b.c' }])
  const { result, waits } = await login(url)
  expect(result).toMatchObject({ idToken: 'a.b.c' })
  expect(waits).toEqual([2_000, 4_000, 8_000, 8_000])
})

test.each([
  ['its own end', { expires_in: 30 }, 5],
  ['half an hour, whatever it says', { expires_in: 1e9, interval: 600 }, 2],
])('loginByDevice asks until %s', async (_what, change, asked) => {
  const { url, forms } = await issuerOf({ ...begun, ...change }, [{ error: 'authorization_pending' }])
  expect((await login(url)).result).toMatchObject({ code: 'IDENTITY', message: expect.stringContaining('in time') })
  expect(forms()).toHaveLength(asked)
})

test.each([
  ['a code that would steer the terminal', { user_code: '\u001b[2J' }],
  ['a code of two lines', { user_code: 'A\nB' }],
  ['a page that is no web page', { verification_uri: 'javascript:alert(1)' }],
  ['a page with control characters', { verification_uri: 'https://a.example/\u0007' }],
  ['no device code', { device_code: 5 }],
])('loginByDevice shows nothing of %s', async (_what, change) => {
  const { url } = await issuerOf({ ...begun, ...change }, [])
  const { result, prompts } = await login(url)
  expect(result).toMatchObject({ code: 'IDENTITY' })
  expect(prompts).toEqual([])
})

test.each([[{ error: 'expired_token' }], [{ error: 'canary words' }], [{ id_token: 5 }], [{}]])(
  'loginByDevice ends with the answer %j and quotes no secret',
  async (answer) => {
    const { url } = await issuerOf(begun, [answer])
    const { result } = await login(url)
    expect(result).toMatchObject({ code: 'IDENTITY' })
    expect(String(result)).not.toContain('canary')
  },
)
