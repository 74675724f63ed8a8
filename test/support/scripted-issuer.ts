import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { onTestFinished } from 'vitest'

/** What an issuer is asked at one of its endpoints. */
export interface IssuerQuestion {
  readonly endpoint: 'token' | 'device' | 'revocation'
  readonly form: URLSearchParams
}

/** An answer as JSON, a number: that status and no JSON, the headers of a response, or one that gets lost on its way. */
export type IssuerAnswer = object | number | Response | 'lost'

/** An issuer of one test that answers what the test says, late if it likes. */
export async function scriptedIssuer(
  answer: (question: IssuerQuestion) => IssuerAnswer | Promise<IssuerAnswer>,
  { authorization }: { readonly authorization?: string } = {},
) {
  const questions: IssuerQuestion[] = []
  const server = createServer(async (request, response) => {
    const body = await request.setEncoding('utf8').toArray()
    const endpoint = (['token', 'device', 'revocation'] as const).find((name) => request.url === `/${name}`)
    if (endpoint === undefined) return void response.end(JSON.stringify(discovery))
    const question = { endpoint, form: new URLSearchParams(body.join('')) }
    questions.push(question)
    const given = await answer(question)
    if (given === 'lost') request.socket.destroy()
    else if (typeof given === 'number') response.writeHead(given).end('<html>')
    else if (given instanceof Response) response.writeHead(given.status, Object.fromEntries(given.headers)).end()
    else response.writeHead('error' in given ? 400 : 200).end(JSON.stringify(given))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const discovery = {
    issuer: url,
    token_endpoint: `${url}/token`,
    device_authorization_endpoint: `${url}/device`,
    revocation_endpoint: `${url}/revocation`,
    authorization_endpoint: authorization,
  }
  const forms = (endpoint: IssuerQuestion['endpoint']) =>
    questions.filter((question) => question.endpoint === endpoint).map(({ form }) => form)
  return { url, forms }
}
