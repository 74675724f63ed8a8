import { once } from 'node:events'
import { type ClientHttp2Session, connect as connectHttp2 } from 'node:http2'
import { connect, createSecureContext, type SecureContext, type TLSSocket } from 'node:tls'
import { create, type DescMessage, fromBinary, type MessageShape, toBinary } from '@bufbuild/protobuf'
import { systemClock } from '../../src/base/clock.ts'
import { NsmError } from '../../src/base/errors.ts'
import { createCsr } from '../../src/identity/csr.ts'
import { splitDer } from '../../src/identity/der-reader.ts'
import type { JoinString } from '../../src/identity/join-string.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { certificatesToPem } from '../../src/identity/pem.ts'
import { ExchangeRequestSchema, ExchangeResponseSchema } from '../../src/nsm/generated/identity_pb.js'
import { NetworkServiceQuerySchema, NetworkServiceResponseSchema } from '../../src/nsm/generated/registry_pb.js'
import { whileBusy } from '../../src/nsm/while-busy.ts'

/** A machine that has joined. */
export interface JoinedMachine {
  /** How often the server had no place for it at first. */
  readonly turnedAway: number
  close(): void
}

/**
 * One machine that joins, as light as it can be: a thousand of them share this process, and the server is what is
 * measured. It says on the wire what ours says: a connection for the pin, one for the exchange, one that stays; and it
 * comes again, as ours does, when a connection is closed without a word.
 */
export async function joinAsMachine(joined: JoinString, localAddress: string): Promise<JoinedMachine> {
  const at = { host: joined.address, port: joined.port, localAddress }
  let turnedAway = -3
  const patience = { clock: systemClock, signal: new AbortController().signal, isBusy: () => true }
  const patiently = <T>(work: () => Promise<T>): Promise<T> =>
    whileBusy(() => {
      turnedAway++
      return work()
    }, patience)
  await patiently(() => meet(at))
  const key = generateKey()
  const csr = createCsr(key)
  const cert = await patiently(() => exchange(at, { token: joined.token ?? '', csr }))
  const own = createSecureContext({ cert, key: key.export({ format: 'pem', type: 'pkcs8' }), minVersion: 'TLSv1.3' })
  const member = await patiently(() => callAsMember(at, own))
  return { turnedAway, close: () => member.destroy() }
}

async function meet(at: At): Promise<void> {
  const socket = await dial(at, anonymous)
  socket.destroy()
}

async function exchange(at: At, { token, csr }: { readonly token: string; readonly csr: Uint8Array }): Promise<string> {
  const visit = await session(at, anonymous)
  try {
    const credential = { case: 'joinToken' as const, value: token }
    const request = toBinary(ExchangeRequestSchema, create(ExchangeRequestSchema, { credential, csr }))
    const answer = await call(visit, '/nsm.identity.v1.IdentityService/Exchange', request)
    return certificatesToPem(splitDer(read(ExchangeResponseSchema, answer).chain))
  } finally {
    visit.destroy()
  }
}

/** The first call of a member; its connection stays. */
async function callAsMember(at: At, own: SecureContext): Promise<ClientHttp2Session> {
  const member = await session(at, own)
  const query = toBinary(NetworkServiceQuerySchema, create(NetworkServiceQuerySchema, { networkService: {} }))
  const answer = await call(member, '/registry.NetworkServiceRegistry/Find', query)
  const { networkService } = read(NetworkServiceResponseSchema, answer)
  if (networkService?.name === 'bench') return member
  member.destroy()
  throw new NsmError('BUG', 'the service was not found', 'look at the server')
}

const anonymous = createSecureContext({ minVersion: 'TLSv1.3' })

interface At {
  readonly host: string
  readonly port: number
  readonly localAddress: string
}

/** The server is our own child; it is not what is verified here. */
async function dial(at: At, secureContext: SecureContext): Promise<TLSSocket> {
  const settings = { servername: 'registry.nsm.internal', ALPNProtocols: ['h2'], rejectUnauthorized: false }
  const socket = connect({ ...at, ...settings, secureContext })
  await once(socket, 'secureConnect')
  return socket
}

async function session(at: At, secureContext: SecureContext): Promise<ClientHttp2Session> {
  const socket = await dial(at, secureContext)
  const made = connectHttp2('https://registry.nsm.internal', { createConnection: () => socket })
  made.on('error', () => {})
  return made
}

async function call(on: ClientHttp2Session, path: string, message: Uint8Array): Promise<Uint8Array> {
  const head = { ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers' }
  const stream = on.request(head)
  let status: unknown
  stream.on('trailers', (trailers) => {
    status = `${trailers['grpc-status']} ${trailers['grpc-message'] ?? ''}`
  })
  stream.on('response', (headers) => {
    status = headers['grpc-status'] ?? status
  })
  const frame = Buffer.alloc(5 + message.length)
  frame.writeUInt32BE(message.length, 1)
  frame.set(message, 5)
  stream.end(frame)
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk)
  const answer = Buffer.concat(chunks)
  if (answer.length < 5) throw new NsmError('REFUSED', `no answer: ${status}`, 'look at the server')
  return answer.subarray(5, 5 + answer.readUInt32BE(1))
}

function read<T extends DescMessage>(schema: T, bytes: Uint8Array): MessageShape<T> {
  return fromBinary(schema, bytes)
}
