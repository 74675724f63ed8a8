import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createServer as createHttpsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import type { BundleDocument } from '../../src/identity/bundle-document.ts'
import { createBundleEndpoint } from '../../src/identity/bundle-endpoint.ts'
import type { Authority } from '../../src/identity/ca.ts'
import { type Federation, type FederationParts, openFederation } from '../../src/identity/federation.ts'
import { createFixedSource } from '../../src/identity/fixed-source.ts'
import type { IdentityState } from '../../src/identity/source.ts'
import { createTlsServer } from '../../src/identity/tls-server.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'
import { authorityOf, identityOf, temporaryDir } from './fixtures.ts'

/** Behind the real time, so that what is made hours later by this clock is valid for TLS, which knows the real one only. */
export const startMs = Date.now() - 7_200_000

/** An identity that is valid by both clocks. */
export const shownBy = (authority: Authority, path: string, clock: FakeClock) =>
  identityOf(authority, path, clock, 6 * 3_600_000)

/** A bundle endpoint that shows an SVID, on a port of its own. */
export async function spiffeEndpoint(
  state: IdentityState,
  document: () => BundleDocument,
  port = 0,
): Promise<{ readonly url: string; readonly port: number; close(): Promise<void> }> {
  const clock = createFakeClock(startMs)
  const server = createTlsServer({
    source: createFixedSource(state, clock),
    allowAnonymous: true,
    onConnection: (socket) => void socket.destroy(),
    onWeb: createBundleEndpoint({ document, clock }).serve,
    log: silentLog,
  })
  onTestFinished(() => server.close())
  const bound = await server.listen({ host: '127.0.0.1', port })
  return { url: `https://127.0.0.1:${bound.port}/bundle`, port: bound.port, close: () => server.close() }
}

/** An https server with a certificate that only `roots` (PEM) vouches for. */
export async function webEndpoint(answer: (path: string) => { status?: number; headers?: object; body?: string }) {
  const dir = temporaryDir()
  const [key, certificate] = [join(dir, 'key.pem'), join(dir, 'cert.pem')]
  const subject = ['-subj', '/CN=web', '-addext', 'subjectAltName=IP:127.0.0.1']
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2']
  execFileSync('openssl', ['req', '-x509', ...kind, '-keyout', key, '-out', certificate, ...subject], { stdio: 'pipe' })
  const roots = readFileSync(certificate, 'utf8')
  const asked: string[] = []
  const server = createHttpsServer({ key: readFileSync(key), cert: roots }, (request, response) => {
    asked.push(request.url ?? '')
    const { status = 200, headers = {}, body = '' } = answer(request.url ?? '')
    response.writeHead(status, { ...headers }).end(body)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return { url: `https://127.0.0.1:${port}/bundle`, roots, asked, port }
}

/** acme.example, which wants to federate. */
export interface Acme {
  readonly authority: Authority
  readonly clock: FakeClock
  readonly warnings: string[]
  readonly path: string
  open(change?: Partial<FederationParts>): Promise<Federation>
}

export function acme(): Acme {
  const clock = createFakeClock(startMs)
  const authority = authorityOf('acme.example', clock)
  const path = join(temporaryDir(), 'state', 'federation.json')
  const warnings: string[] = []
  return {
    ...{ authority, clock, path, warnings },
    async open(change) {
      const log = { ...silentLog, warn: (_: string, fields?: object) => void warnings.push(JSON.stringify(fields)) }
      const own = () => authority.bundles
      const federation = await openFederation({ trustDomain: 'acme.example', own, path, clock, log, ...change })
      onTestFinished(() => federation.close())
      return federation
    },
  }
}

/** globex.example with an endpoint; what it gives may be replaced. */
export async function globex(clock: FakeClock) {
  const authority = authorityOf('globex.example', clock)
  let document = (): BundleDocument => authority.document
  const endpoint = await spiffeEndpoint(shownBy(authority, '/bundle', clock), () => document())
  const endpointId = 'spiffe://globex.example/bundle'
  return {
    ...{ authority, endpoint, endpointId },
    give(next: () => BundleDocument) {
      document = next
    },
  }
}
