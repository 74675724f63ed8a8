import { once } from 'node:events'
import { request } from 'node:https'
import { connect, type TLSSocket } from 'node:tls'
import { describe, expect, onTestFinished, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { parseBundle } from '../../src/identity/bundle-document.ts'
import { createBundleEndpoint } from '../../src/identity/bundle-endpoint.ts'
import { createFixedSource } from '../../src/identity/fixed-source.ts'
import { createTlsServer } from '../../src/identity/tls-server.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { authorityOf, identityOf } from './fixtures.ts'

async function endpoint() {
  const clock = createFakeClock(Date.now())
  const authority = authorityOf('acme.example', clock)
  let grpc = 0
  const server = createTlsServer({
    source: createFixedSource(identityOf(authority, '/server', clock), clock),
    allowAnonymous: true,
    onConnection: (socket) => {
      grpc++
      socket.destroy()
    },
    onWeb: createBundleEndpoint({ document: () => authority.document, clock }).serve,
    clock,
    log: silentLog,
  })
  onTestFinished(() => server.close())
  const { port } = await server.listen({ host: '127.0.0.1', port: 0 })
  return { clock, authority, server, port, grpc: () => grpc }
}

/** One question over a connection of its own. */
async function ask(port: number, path: string, method = 'GET') {
  const sent = request({ host: '127.0.0.1', port, path, method, rejectUnauthorized: false, agent: false })
  sent.end()
  const [response] = await once(sent, 'response')
  let body = ''
  for await (const part of response) body += String(part)
  return { status: response.statusCode, type: response.headers['content-type'], body }
}

async function dial(port: number, protocols?: string[]): Promise<TLSSocket> {
  const socket = connect({
    ...{ host: '127.0.0.1', port, rejectUnauthorized: false },
    ...(protocols ? { ALPNProtocols: protocols } : {}),
  })
  onTestFinished(() => void socket.destroy())
  socket.on('error', () => {})
  await once(socket, 'secureConnect')
  return socket
}

const closed = (socket: TLSSocket) => (socket.closed ? Promise.resolve([]) : once(socket, 'close'))

describe('the bundle endpoint beside gRPC', () => {
  test('gives the bundle of the moment to anybody', async () => {
    const { port, authority } = await endpoint()
    const { status, type, body } = await ask(port, '/bundle')
    expect([status, type]).toEqual([200, 'application/json'])
    expect(parseBundle(body)).toMatchObject({ sequence: authority.document.sequence, refreshHintMs: 300_000 })
    await authority.rotation.begin()
    expect(parseBundle((await ask(port, '/bundle?x=1')).body).roots).toHaveLength(2)
  })

  test.each([
    ['/', 'GET', 404],
    ['/bundle/', 'GET', 404],
    ['/bundle', 'POST', 405],
    ['/bundle', 'HEAD', 200],
  ])('answers %s by %s with %i and nothing more', async (path, method, status) => {
    const { port } = await endpoint()
    expect(await ask(port, path, method)).toMatchObject({ status, body: '' })
  })

  test('is for who offers HTTP/1.1, as browsers and SPIRE do beside HTTP/2, and for who says no protocol', async () => {
    const { port, grpc } = await endpoint()
    await closed(await dial(port, ['h2']))
    expect(grpc()).toBe(1)
    expect((await dial(port, ['h2', 'http/1.1'])).alpnProtocol).toBe('http/1.1')
    const socket = await dial(port)
    socket.write('GET /bundle HTTP/1.1\r\nhost: x\r\n\r\n')
    expect(String(await once(socket, 'data'))).toContain('200 OK')
    await expect(dial(port, ['http/0.9'])).rejects.toThrow()
    expect(grpc()).toBe(1)
  })

  test('ends a visitor that says nothing, one that says nonsense and one with endless headers', async () => {
    const { port, clock, server } = await endpoint()
    const silent = await dial(port)
    const wrong = await dial(port)
    wrong.write('\r\n\u0000nonsense\r\n\r\n')
    await closed(wrong)
    const endless = await dial(port)
    endless.write(`GET /bundle HTTP/1.1\r\nx: ${'y'.repeat(10_000)}`)
    await closed(endless)
    expect(silent.closed).toBe(false)
    await clock.advance(10_000)
    await closed(silent)
    await expect.poll(() => server.counts.total).toBe(0)
  })

  test('answers one question for each connection', async () => {
    const { port } = await endpoint()
    const socket = await dial(port)
    const question = 'GET /bundle HTTP/1.1\r\nhost: x\r\n\r\n'
    let answer = ''
    socket.on('data', (data) => {
      answer += String(data)
    })
    socket.write(question.repeat(3))
    await closed(socket)
    expect(answer.match(/HTTP\/1\.1 200/g)).toHaveLength(1)
  })

  test('takes the places of callers without a certificate, not those of members', async () => {
    const { port, server } = await endpoint()
    const visitors = await Promise.all(Array.from({ length: 8 }, () => dial(port)))
    await expect.poll(() => server.counts.anonymous).toBe(8)
    await closed(await dial(port))
    for (const one of visitors) one.destroy()
    await expect.poll(() => server.counts.total).toBe(0)
  })
})

test('without a bundle to give, HTTP/1.1 is cut', async () => {
  const clock = createFakeClock(Date.now())
  const server = createTlsServer({
    source: createFixedSource(identityOf(authorityOf('acme.example', clock), '/server', clock), clock),
    ...{ allowAnonymous: true, onConnection: () => {}, clock, log: silentLog },
  })
  onTestFinished(() => server.close())
  const { port } = await server.listen({ host: '127.0.0.1', port: 0 })
  await expect(ask(port, '/bundle')).rejects.toThrow()
})
