import { once } from 'node:events'
import { type ClientHttp2Session, connect, constants } from 'node:http2'
import { createServer, type Socket } from 'node:net'
import fc from 'fast-check'
import { afterEach, expect, test } from 'vitest'
import { ServerSession } from '../../../src/nsm/http2/server-session.ts'
import type { ServerStream } from '../../../src/nsm/http2/server-stream.ts'

/* Our side of HTTP/2 and the one in Node, which is nghttp2, on loopback. */

const closing: (() => unknown)[] = []
afterEach(() => {
  for (const close of closing.splice(0).reverse()) close()
})

/** A client of Node, and a session of ours whose streams `serve` answers. */
async function connectPair(serve: (stream: ServerStream, body: Buffer) => void, settings: object = {}) {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  closing.push(() => server.close())
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') expect.fail('no port')
  const client = connect(`http://127.0.0.1:${address.port}`, { settings })
  client.on('error', () => {})
  closing.push(() => client.destroy())
  const [socket]: Socket[] = await once(server, 'connection')
  return { client, session: serveOn(socket ?? expect.fail(), serve) }
}

function serveOn(socket: Socket, serve: (stream: ServerStream, body: Buffer) => void): ServerSession {
  const session = new ServerSession(
    {
      write: (bytes) => socket.write(bytes),
      unsentBytes: () => socket.writableLength,
      end: () => socket.destroySoon(),
      onStream(stream) {
        const pieces: Buffer[] = []
        stream.listener = {
          onData: (piece) => void pieces.push(Buffer.from(piece)),
          onEnd: () => serve(stream, Buffer.concat(pieces)),
          onDrain() {},
          onClose() {},
        }
      },
    },
    { streamsMax: 100, headerListMaxBytes: 32 * 1024 },
  )
  socket.on('data', (piece) => session.receive(piece, performance.now()))
  socket.on('drain', () => session.drained())
  socket.on('error', () => {})
  return session
}

/** One request with a body; its answer and its trailer. */
async function call(client: ClientHttp2Session, body: Buffer, header: Record<string, string> = {}) {
  const stream = client.request({ ':method': 'POST', ':path': '/a', ...header })
  let trailer: unknown
  stream.on('trailers', (values) => {
    trailer = values['x-length']
  })
  stream.end(body)
  const pieces: Buffer[] = []
  for await (const piece of stream) pieces.push(piece)
  return { body: Buffer.concat(pieces), trailer }
}

/** Answers with what was asked, so many times over. */
function echo(stream: ServerStream, body: Buffer, times = 1): void {
  stream.respond({ ':status': 200 })
  for (let i = 0; i < times; i++) stream.send(body)
  stream.end({ 'x-length': body.length * times })
}

test('nghttp2 sends and gets bodies of any length, several at once, whatever windows and frames it allows', async () => {
  const one = fc.record({ bytes: fc.nat(120_000), times: fc.integer({ min: 1, max: 3 }) })
  const given = fc.record({
    initialWindowSize: fc.constantFrom(1_000, 65_535, 1_000_000),
    maxFrameSize: fc.constantFrom(16_384, 100_000),
    headerTableSize: fc.constantFrom(0, 100, 4_096, 10_000),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(one, { minLength: 1, maxLength: 5 }), given, async (calls, settings) => {
      const { client, session } = await connectPair((stream, body) => {
        const times = Number(stream.fields[stream.fields.indexOf('x-times') + 1])
        echo(stream, body, times)
      }, settings)
      const answers = calls.map(({ bytes, times }) => {
        const body = Buffer.alloc(bytes, `${bytes}.`)
        return call(client, body, { 'x-times': `${times}` })
      })
      for (const [i, { bytes = 0, times = 0 }] of calls.entries()) {
        const answer = await answers[i]
        expect(answer?.body.equals(Buffer.concat(Array(times).fill(Buffer.alloc(bytes, `${bytes}.`))))).toBe(true)
        expect(answer?.trailer).toBe(`${bytes * times}`)
      }
      expect(session.openStreams).toBe(0)
      client.close()
    }),
    { numRuns: 25 },
  )
})

test('nghttp2 changes its window and its table while it calls, and understands every answer', async () => {
  const { client } = await connectPair((stream, body) => echo(stream, body))
  for (const settings of [
    { initialWindowSize: 10 },
    { headerTableSize: 0 },
    { initialWindowSize: 1_000_000, headerTableSize: 4_096 },
    { headerTableSize: 100 },
  ]) {
    client.settings(settings)
    expect((await call(client, Buffer.alloc(5_000, 'x'))).body).toHaveLength(5_000)
  }
})

test('nghttp2 sees our answer to its ping, and our limits', async () => {
  const { client } = await connectPair((stream, body) => echo(stream, body))
  await once(client, 'remoteSettings')
  expect(client.remoteSettings).toMatchObject({ maxConcurrentStreams: 100, maxHeaderListSize: 32 * 1024 })
  const sent = Buffer.from('12345678')
  const payload = await new Promise((resolve) => client.ping(sent, (_error, _ms, bytes) => resolve(bytes)))
  expect(payload).toEqual(sent)
})

test('nghttp2 finishes its calls when we leave and then close, and is gone with the last one', async () => {
  const waiting: ServerStream[] = []
  const { client, session } = await connectPair((stream) => void waiting.push(stream))
  const goaways: number[] = []
  client.on('goaway', (code) => goaways.push(code))
  const answer = call(client, Buffer.from('late'))
  await expect.poll(() => waiting).toHaveLength(1)
  session.leave()
  session.close()
  await expect.poll(() => goaways).toEqual([constants.NGHTTP2_NO_ERROR, constants.NGHTTP2_NO_ERROR])
  for (const stream of waiting) echo(stream, Buffer.from('done'))
  expect(String((await answer).body)).toBe('done')
  await expect.poll(() => client.destroyed).toBe(true)
})

test('nghttp2 cancels a call in the middle of its answer, and the next ones come whole', async () => {
  const { client, session } = await connectPair((stream, body) => echo(stream, body))
  const stream = client.request({ ':method': 'POST', ':path': '/a' })
  stream.on('error', () => {})
  stream.end(Buffer.alloc(60_000))
  await once(stream, 'response')
  stream.close(constants.NGHTTP2_CANCEL)
  for (let i = 0; i < 3; i++) expect((await call(client, Buffer.alloc(70_000))).body).toHaveLength(70_000)
  expect(session.openStreams).toBe(0)
})

test('nghttp2 is told to calm down when it floods us with pings, and its next connection is served', async () => {
  const { client } = await connectPair((stream, body) => echo(stream, body), {})
  const said = once(client, 'goaway')
  const pinging = setInterval(() => {
    for (let i = 0; i < 10 && !client.destroyed; i++) client.ping(() => {})
  })
  const [code] = await said
  clearInterval(pinging)
  expect(code).toBe(constants.NGHTTP2_ENHANCE_YOUR_CALM)
  const next = await connectPair((stream, body) => echo(stream, body))
  expect(String((await call(next.client, Buffer.from('again'))).body)).toBe('again')
})
