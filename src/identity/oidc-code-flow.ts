import { hash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import {
  errorWord,
  findEndpoints,
  type LoginEndpoints,
  type LoginIssuer,
  type LoginTokens,
  loginFailed,
  postForm,
  tokensOf,
} from './oidc-provider.ts'

/**
 * A login in the browser of this machine: authorization code with PKCE [RFC 7636], answered on a loopback address [RFC 8252
 * 7.3]. `show` gets the URL to open. Throws `IDENTITY` when the person or the issuer says no, `UNREACHABLE`.
 */
export async function loginByBrowser(
  issuer: LoginIssuer,
  { show, signal }: { readonly show: (url: string) => void; readonly signal: AbortSignal },
): Promise<LoginTokens> {
  const endpoints = await findEndpoints(issuer)
  const { authorization, token } = endpoints
  if (authorization === undefined) throw loginFailed('the issuer has no login by browser: nsm login --method device')
  const [verifier, state, nonce] = [secret(), secret(), secret()]
  const callback = await listenForCode(state, signal)
  try {
    const { redirectUri } = callback
    show(authorizationUrl(authorization, { endpoints, clientId: issuer.clientId, verifier, state, nonce, redirectUri }))
    const code = await callback.code
    const form = { grant_type: 'authorization_code', client_id: issuer.clientId, redirect_uri: redirectUri }
    const tokens = tokensOf(await postForm(token, { ...form, code, code_verifier: verifier }, signal))
    if ((await nonceOf(tokens.idToken)) !== nonce) throw loginFailed('the ID token is of another login')
    return tokens
  } finally {
    callback.close()
  }
}

async function nonceOf(idToken: string): Promise<unknown> {
  const { decodeJwt } = await import('jose')
  try {
    return decodeJwt(idToken)['nonce']
  } catch {
    throw loginFailed('the issuer gave an ID token that cannot be read')
  }
}

function authorizationUrl(
  endpoint: string,
  asked: Readonly<Record<'clientId' | 'verifier' | 'state' | 'nonce' | 'redirectUri', string>> & {
    readonly endpoints: LoginEndpoints
  },
): string {
  const url = new URL(endpoint)
  const parameters = {
    response_type: 'code',
    client_id: asked.clientId,
    redirect_uri: asked.redirectUri,
    scope: asked.endpoints.scope,
    ...(asked.endpoints.isOffline ? { prompt: 'consent' } : {}),
    state: asked.state,
    nonce: asked.nonce,
    code_challenge: hash('sha256', asked.verifier, 'base64url'),
    code_challenge_method: 'S256',
  }
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value)
  return url.href
}

/** Waits for the one request that carries our state; every other one is answered with 400 and changes nothing. [security C12] */
async function listenForCode(state: string, signal: AbortSignal) {
  const server = createServer()
  const { promise: code, resolve, reject } = Promise.withResolvers<string>()
  // Closing may come before anybody waits for the code.
  code.catch(() => {})
  const stop = () => reject(signal.reason)
  await once(server.listen(0, '127.0.0.1'), 'listening')
  signal.addEventListener('abort', stop, { once: true })
  if (signal.aborted) stop()
  const address = server.address()
  const host = `127.0.0.1:${typeof address === 'object' ? address?.port : ''}`
  let isAnswered = false
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    const [path, query] = (request.url ?? '').split('?', 2)
    const searchParams = new URLSearchParams(query)
    const isOurs = request.method === 'GET' && request.headers.host === host && path === '/callback'
    if (!isOurs || isAnswered || searchParams.get('state') !== state)
      return answer(response, 400, 'This is not the answer to a login.')
    isAnswered = true
    const found = searchParams.get('code')
    if (found === null) reject(loginFailed(`the issuer refused (${errorWord(searchParams.get('error'))})`))
    else resolve(found)
    answer(response, 200, 'You may close this page and go back to nsm.')
  })
  return {
    redirectUri: `http://${host}/callback`,
    code,
    close() {
      signal.removeEventListener('abort', stop)
      server.close()
    },
  }
}

function answer(response: ServerResponse, status: number, text: string): void {
  const headers = { 'content-type': 'text/plain', 'content-security-policy': "default-src 'none'", connection: 'close' }
  response.writeHead(status, { ...headers, 'cache-control': 'no-store' }).end(`${text}\n`)
}

/** [RFC 7636 4.1] 256 random bits. */
function secret(): string {
  return randomBytes(32).toString('base64url')
}
