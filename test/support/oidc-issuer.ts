import { randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'

/** An issuer as a CI platform has one: a discovery document, keys, and tokens with any claims, on loopback. */
export interface TestIssuer {
  readonly url: string
  /** Requests of its documents so far. */
  readonly asked: string[]
  /** A token as it should be; claims and header can be changed, `undefined` leaves a claim out. */
  token(
    claims?: Readonly<Record<string, unknown>>,
    header?: { readonly typ?: string; readonly kid?: string },
  ): Promise<string>
  /** New tokens are signed with a new key, and only it is published. */
  rotate(): Promise<void>
  /** From here on it answers with this status, 200 for the documents. */
  answer(status: number): void
  close(): Promise<void>
}

export async function startIssuer(nowMs: () => number = Date.now): Promise<TestIssuer> {
  const asked: string[] = []
  let status = 200
  let signer = await newSigner(1)
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    asked.push(request.url ?? '')
    const documents: Record<string, unknown> = {
      '/.well-known/openid-configuration': { issuer: url, jwks_uri: `${url}/keys` },
      '/keys': { keys: [{ ...signer.jwk, kid: signer.kid, use: 'sig', alg: 'RS256' }] },
    }
    response.writeHead(status, { location: 'http://127.0.0.1:1/' }).end(JSON.stringify(documents[request.url ?? '']))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const url = `http://127.0.0.1:${port}`
  return {
    url,
    asked,
    token(claims = {}, header = {}) {
      const seconds = Math.floor(nowMs() / 1000)
      const base = {
        iss: url,
        aud: 'nsm://test.internal',
        sub: 'repo:acme/app',
        iat: seconds,
        exp: seconds + 300,
        jti: randomUUID(),
      }
      const all = Object.entries({ ...base, ...claims }).filter(([, value]) => value !== undefined)
      return new SignJWT(Object.fromEntries(all))
        .setProtectedHeader({ alg: 'RS256', kid: signer.kid, ...header })
        .sign(signer.privateKey)
    },
    async rotate() {
      signer = await newSigner(Number(signer.kid.slice(1)) + 1)
    },
    answer(next) {
      status = next
    },
    close: () => new Promise((resolve) => server.close(() => resolve())),
  }
}

async function newSigner(number: number) {
  const { privateKey, publicKey } = await generateKeyPair('RS256')
  return { privateKey, jwk: await exportJWK(publicKey), kid: `k${number}` }
}
