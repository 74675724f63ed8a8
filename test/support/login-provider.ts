import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Provider } from 'oidc-provider'

/** The client of the tests at the provider. */
export const loginClient = 'nsm-cli'

/** A real OpenID provider on loopback where anybody logs in with any password. */
export async function startLoginProvider(): Promise<{ readonly url: string; close(): Promise<void> }> {
  let handler: RequestListener = () => {}
  const server = createServer((request, response) => handler(request, response))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const grants = ['authorization_code', 'urn:ietf:params:oauth:grant-type:device_code']
  const client = {
    ...{ client_id: loginClient, application_type: 'native', token_endpoint_auth_method: 'none' },
    ...{ grant_types: grants, response_types: ['code'], redirect_uris: ['http://127.0.0.1/callback'] },
  }
  const features = { deviceFlow: { enabled: true }, devInteractions: { enabled: true } }
  handler = new Provider(url, { clients: [client], features, cookies: { keys: ['test'] } }).callback()
  return {
    url,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
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
