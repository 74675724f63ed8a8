import { request } from 'node:http'
import { decodeJwt } from 'jose'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { loginByBrowser } from '../../src/identity/oidc-code-flow.ts'
import { type DevicePrompt, loginByDevice } from '../../src/identity/oidc-device-flow.ts'
import { browse, loginClient, startLoginProvider } from '../support/login-provider.ts'
import { scriptedIssuer } from '../support/scripted-issuer.ts'

let provider: Awaited<ReturnType<typeof startLoginProvider>>
const person = { login: 'alice', password: 'any' }

beforeAll(async () => {
  provider = await startLoginProvider()
})
afterAll(() => provider.close())

const issuer = () => ({ url: provider.url, clientId: loginClient, scopes: ['openid'] })
const signal = () => AbortSignal.timeout(120_000)
/** Waits for nothing: the interval of the provider is the person's, not the test's. */
const quickClock = { ...systemClock, after: (_delayMs: number, action: () => void) => systemClock.after(20, action) }

describe('loginByBrowser', () => {
  test('gets an ID token of the person who logged in, through a loopback address and with PKCE', async () => {
    const asked: URL[] = []
    const pages: Promise<Response>[] = []
    const show = (url: string) => {
      asked.push(new URL(url))
      pages.push(browse(url, person))
    }
    const claims = decodeJwt((await loginByBrowser(issuer(), { show, signal: signal() })).idToken)
    expect(claims).toMatchObject({ iss: provider.url, aud: loginClient, sub: 'alice' })
    const parameters = Object.fromEntries(asked[0]?.searchParams ?? [])
    expect(parameters).toMatchObject({ code_challenge_method: 'S256', scope: 'openid', response_type: 'code' })
    expect(parameters['redirect_uri']).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/callback$/)
    const page = await pages[0]
    expect(await page?.text()).toContain('go back to nsm')
    expect(page?.headers.get('content-security-policy')).toBe("default-src 'none'")
  })

  test('gets a refresh token when one is wanted, for which the person is asked', async () => {
    const asked: URL[] = []
    const show = (url: string) => {
      asked.push(new URL(url))
      void browse(url, person)
    }
    const { refreshToken } = await loginByBrowser({ ...issuer(), keep: true }, { show, signal: signal() })
    expect(refreshToken).toBe(provider.issued.at(-1))
    const parameters = Object.fromEntries(asked[0]?.searchParams ?? [])
    expect(parameters).toMatchObject({ scope: 'openid offline_access', prompt: 'consent' })
  })

  test('asks for no refresh token at an issuer that does not say that it has them', async () => {
    const { url } = await scriptedIssuer(() => ({}), { authorization: 'https://issuer.example/login' })
    const asked: URL[] = []
    const stop = new AbortController()
    const show = (page: string) => {
      asked.push(new URL(page))
      stop.abort(new RangeError('seen'))
    }
    const login = loginByBrowser({ url, clientId: 'x', scopes: ['openid'], keep: true }, { show, signal: stop.signal })
    await expect(login).rejects.toThrow('seen')
    const parameters = Object.fromEntries(asked[0]?.searchParams ?? [])
    expect([parameters['scope'], parameters['prompt']]).toEqual(['openid', undefined])
  })

  test('answers a wrong state, path, method and host with 400, and the login goes on', async () => {
    const statuses: (number | undefined)[] = []
    const show = async (url: string) => {
      const { searchParams } = new URL(url)
      const [redirect = '', state = ''] = [searchParams.get('redirect_uri'), searchParams.get('state')].map(String)
      const hostile = [
        { url: `${redirect}?code=x&state=wrong` },
        { url: `${redirect}?code=x` },
        { url: `${redirect}x?code=x&state=${state}` },
        { url: `${redirect}?code=x&state=${state}`, method: 'POST' },
        { url: `${redirect}?code=x&state=${state}`, host: 'evil.example' },
        // None of them is a URL, and nobody but the sender is to suffer from it.
        ...['//', '//?', 'http://', '*'].map((path) => ({ url: redirect, path })),
      ]
      for (const one of hostile) statuses.push(await statusOf(one))
      await browse(url, person)
    }
    const { idToken } = await loginByBrowser(issuer(), { show: (url) => void show(url), signal: signal() })
    expect(decodeJwt(idToken).sub).toBe('alice')
    expect(statuses).toEqual(new Array(9).fill(400))
  })

  test('takes one answer: a second one gets 400', async () => {
    const statuses: (number | undefined)[] = []
    const { promise: asked, resolve: hasAsked } = Promise.withResolvers<void>()
    const { promise: seen, resolve: hasSeen } = Promise.withResolvers<void>()
    const answer = async () => {
      hasAsked()
      await seen
      return { error: 'invalid_grant' }
    }
    const { url } = await scriptedIssuer(answer, { authorization: 'https://issuer.example/login' })
    const show = async (page: string) => {
      const { searchParams } = new URL(page)
      const back = `${searchParams.get('redirect_uri')}?code=x&state=${searchParams.get('state')}`
      statuses.push(await statusOf({ url: back }))
      await asked
      statuses.push(await statusOf({ url: back }))
      hasSeen()
    }
    const login = loginByBrowser(
      { url, clientId: 'x', scopes: ['openid'] },
      { show: (page) => void show(page), signal: signal() },
    )
    await expect(login).rejects.toMatchObject({ code: 'IDENTITY' })
    expect(statuses).toEqual([200, 400])
  })

  test.each(['', 'x', 'a.b.c', `${btoa('{}')}.${btoa('[')}.`])('refuses %j as an ID token', async (idToken) => {
    const { url } = await scriptedIssuer(() => ({ id_token: idToken }), {
      authorization: 'https://issuer.example/login',
    })
    const show = (page: string) => {
      const { searchParams } = new URL(page)
      void fetch(`${searchParams.get('redirect_uri')}?code=x&state=${searchParams.get('state')}`)
    }
    const login = loginByBrowser({ url, clientId: 'x', scopes: ['openid'] }, { show, signal: signal() })
    await expect(login).rejects.toMatchObject({ code: 'IDENTITY' })
  })

  test.each([
    ['access_denied', '(access_denied)'],
    ['<script>', '(no reason given)'],
  ])('ends when the issuer says %s', async (error, text) => {
    const show = (url: string) => {
      const { searchParams } = new URL(url)
      const answer = new URL(String(searchParams.get('redirect_uri')))
      answer.search = String(new URLSearchParams({ error, state: String(searchParams.get('state')) }))
      void fetch(answer)
    }
    await expect(loginByBrowser(issuer(), { show, signal: signal() })).rejects.toMatchObject({
      code: 'IDENTITY',
      message: expect.stringContaining(text),
    })
  })

  test('refuses a code that the issuer did not give', async () => {
    const show = (url: string) => {
      const { searchParams } = new URL(url)
      void fetch(`${searchParams.get('redirect_uri')}?code=made-up&state=${searchParams.get('state')}`)
    }
    await expect(loginByBrowser(issuer(), { show, signal: signal() })).rejects.toMatchObject({
      message: expect.stringContaining('invalid_grant'),
    })
  })

  test('ends with its signal and leaves nothing open', async () => {
    const stop = new AbortController()
    let redirect = ''
    const show = (url: string) => {
      redirect = String(new URL(url).searchParams.get('redirect_uri'))
      stop.abort(new RangeError('stopped'))
    }
    await expect(loginByBrowser(issuer(), { show, signal: stop.signal })).rejects.toThrow('stopped')
    await expect(fetch(redirect)).rejects.toThrow()
  })
})

test('loginByBrowser ends with a signal that came before there was a page', async () => {
  const stop = new AbortController()
  const login = loginByBrowser(issuer(), { show: () => {}, signal: stop.signal })
  stop.abort(new RangeError('stopped'))
  await expect(login).rejects.toThrow('stopped')
})

describe('loginByDevice', () => {
  const login = (show: (prompt: DevicePrompt) => void, clientId = loginClient) =>
    loginByDevice({ ...issuer(), clientId }, { show, clock: quickClock, signal: signal() })

  test('waits for a person who types the code into a page elsewhere', async () => {
    const { idToken } = await login(
      ({ page, code }) => void browse(page, { ...person, user_code: code }).catch(() => {}),
    )
    expect(decodeJwt(idToken)).toMatchObject({ iss: provider.url, aud: loginClient, sub: 'alice' })
  })

  test('ends when the person says no', async () => {
    const show = ({ page, code }: DevicePrompt) => void browse(page, { user_code: code, abort: 'yes' }).catch(() => {})
    await expect(login(show)).rejects.toMatchObject({
      code: 'IDENTITY',
      message: expect.stringMatching(/access_denied/),
    })
  })

  test('ends when the issuer does not know the client', async () => {
    await expect(login(() => {}, 'other')).rejects.toMatchObject({ message: expect.stringMatching(/invalid_client/) })
  })
})

test('an issuer that does not answer is UNREACHABLE, in both ways', async () => {
  const gone = { url: 'http://127.0.0.1:1', clientId: 'x', scopes: ['openid'] }
  const around = { show: () => {}, clock: quickClock, signal: signal() }
  await expect(loginByBrowser(gone, around)).rejects.toMatchObject({ code: 'UNREACHABLE' })
  await expect(loginByDevice(gone, around)).rejects.toMatchObject({ code: 'UNREACHABLE' })
})

function statusOf(asked: {
  readonly url: string
  readonly method?: string
  readonly host?: string
  readonly path?: string
}) {
  const { url, method = 'GET', host, path } = asked
  return new Promise<number | undefined>((resolve, reject) => {
    const options = {
      method,
      ...(host === undefined ? {} : { headers: { host } }),
      ...(path === undefined ? {} : { path }),
    }
    const sent = request(url, options, (response) => resolve(response.resume().statusCode))
    sent.once('error', reject)
    sent.end()
  })
}
