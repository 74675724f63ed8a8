import { generateKeyPairSync } from 'node:crypto'
import { createServer, type RequestListener, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Provider } from 'oidc-provider'

/** The client of the tests at the provider. */
export const loginClient = 'nsm-cli'

/** A provider that runs. */
export interface LoginProvider {
  readonly url: string
  /** Bodies of the requests to its token and revocation endpoints, the newest last. */
  readonly asked: URLSearchParams[]
  /** Refresh tokens that it gave, the newest last. */
  readonly issued: string[]
  /** True: it takes connections and answers none with anything but an error. */
  isAway: boolean
  /** True: it does what it is asked at its token endpoint, and its answer gets lost. */
  losesAnswers: boolean
  close(): Promise<void>
}

/** A real OpenID provider on loopback where anybody logs in with any password; it rotates refresh tokens. */
export async function startLoginProvider(
  settings: {
    readonly refreshSeconds?: number
    /** What it says of everybody beside `sub`, each in a scope of its own. */
    readonly claims?: Readonly<Record<string, unknown>>
  } = {},
): Promise<LoginProvider> {
  let handler: RequestListener = () => {}
  const asked: URLSearchParams[] = []
  const issued: string[] = []
  const server = createServer((request, response) => {
    if (provider.isAway) return void response.writeHead(503).end('away')
    if (/^\/token/.test(request.url ?? '')) {
      if (provider.losesAnswers) loseAnswer(response)
      const parts: Buffer[] = []
      request.on('data', (part) => parts.push(part))
      request.once('end', () => asked.push(new URLSearchParams(Buffer.concat(parts).toString())))
    }
    handler(request, response)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const grants = ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code', 'refresh_token']
  const client = {
    ...{ client_id: loginClient, application_type: 'native', token_endpoint_auth_method: 'none' },
    // Random, so that two tokens of one second differ.
    id_token_signed_response_alg: 'ES256',
    ...{ grant_types: grants, response_types: ['code'], redirect_uris: ['http://127.0.0.1/callback'] },
  }
  const features = { deviceFlow: { enabled: true }, devInteractions: { enabled: true }, revocation: { enabled: true } }
  const ttl = settings.refreshSeconds === undefined ? {} : { ttl: { RefreshToken: settings.refreshSeconds } }
  const jwks = { keys: [generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' })] }
  const { claims = {} } = settings
  const about = {
    claims: { openid: ['sub'], ...Object.fromEntries(Object.keys(claims).map((name) => [name, [name]])) },
    conformIdTokenClaims: false,
    findAccount: async (_: unknown, sub: string) => ({ accountId: sub, claims: async () => ({ ...claims, sub }) }),
  }
  const cookies = { keys: ['test'] }
  const engine = new Provider(url, { clients: [client], features, jwks, cookies, ...about, ...ttl })
  engine.on('grant.success', ({ body }) => {
    const given = typeof body === 'object' && body !== null && 'refresh_token' in body ? body.refresh_token : undefined
    if (typeof given === 'string') issued.push(given)
  })
  handler = engine.callback()
  const provider: LoginProvider = {
    ...{ url, asked, issued, isAway: false, losesAnswers: false },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  return provider
}

/** Nothing of it leaves, and the connection is cut once it is made. */
function loseAnswer(response: ServerResponse): void {
  response.end = () => {
    response.socket?.destroy()
    return response
  }
}

/** A person with a browser: follows redirects with cookies and fills in each form it is shown, until none is left. */
export async function browse(start: string, fields: Readonly<Record<string, string>>): Promise<Response> {
  const jar = new Map<string, string>()
  let next: { readonly url: string; readonly body?: URLSearchParams } = { url: start }
  for (let step = 0; step < 20; step++) {
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ')
    const sent = { headers: { cookie }, redirect: 'manual' } as const
    const response = await fetch(next.url, next.body ? { ...sent, method: 'POST', body: next.body } : sent)
    for (const line of response.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(line) ?? []
      jar.set(name, value)
    }
    const location = response.headers.get('location')
    if (location !== null) {
      next = { url: new URL(location, next.url).href }
      continue
    }
    const form = formOf(await response.clone().text(), fields)
    if (!form) return response
    next = { url: new URL(form.action || next.url, next.url).href, body: form.body }
  }
  throw new Error('the provider asks for ever')
}

function formOf(html: string, fields: Readonly<Record<string, string>>) {
  const form = /<form[^>]*>([\s\S]*?)<\/form>/.exec(html)
  if (!form) return undefined
  const body = new URLSearchParams()
  for (const [input] of html.matchAll(/<input[^>]*>/g)) {
    const name = attribute(input, 'name')
    const value = (name && fields[name]) ?? attribute(input, 'value')
    if (name !== undefined && value !== undefined) body.set(name, value)
  }
  if (fields['abort'] !== undefined) body.set('abort', fields['abort'])
  return { action: attribute(form[0].slice(0, form[0].indexOf('>') + 1), 'action') ?? '', body }
}

function attribute(tag: string, name: string): string | undefined {
  return new RegExp(`\\b${name}="([^"]*)"`).exec(tag)?.[1]?.replaceAll('&amp;', '&')
}
