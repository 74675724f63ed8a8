import { sign } from 'node:crypto'
import { ChannelCredentials, Client, Metadata, type ServiceError, type status } from '@grpc/grpc-js'
import type { IdentitySource, Svid } from '../../src/identity/source.ts'
import { createClientSecurity } from '../../src/identity/tls-client.ts'
import { signToken } from '../../src/identity/token.ts'
import type { Target } from '../../src/nsm/channel.ts'
import type { Connection } from '../../src/nsm/generated/connection_pb.js'
import { NetworkService, type NetworkServiceRequest } from '../../src/nsm/generated/networkservice_pb.js'
import { methodDefinition } from '../../src/nsm/service-definition.ts'

/** How a raw call ended: the answer, or the bare gRPC status. */
export type RawEnd =
  | { readonly answer: Connection; readonly code?: undefined; readonly text?: undefined }
  | { readonly answer?: undefined; readonly code: status; readonly text: string }

/** A caller with a real certificate that makes its metadata itself. */
export interface RawCaller {
  readonly svid: Svid
  /** An honest token for the audience, with parts of it changed. */
  token(change?: { readonly claims?: object; readonly svid?: Svid }): string
  /** Sends a Request with exactly these metadata. */
  request(request: NetworkServiceRequest, metadata: Readonly<Record<string, string>>): Promise<RawEnd>
  close(): void
}

/** Metadata keys, as text: a change in our constants shows here. */
export const tokenKey = 'nsm-client-token'
export const expiresKey = 'nsm-client-token-expires'

const callTimeoutMs = 10_000

/** Opens a caller towards one server. */
export function openRawCaller(target: Target, source: IdentitySource, audience: string): RawCaller {
  const security = createClientSecurity({ as: { source } })
  const credentials = ChannelCredentials.createFromSecureContext(security.secureContext, security.verifyOptions)
  const options = { 'grpc.ssl_target_name_override': security.serverName }
  const client = new Client(`${target.address}:${target.port}`, credentials, options)
  const codec = methodDefinition(NetworkService.method.request)
  const { svid } = source.current()
  return {
    svid,
    token({ claims, svid: signer = svid } = {}) {
      const honest = signToken({ svid: signer, audience, expiresMs: Date.now() + 600_000 })
      return claims ? resigned(honest, claims, signer) : honest
    },
    request(request, metadata) {
      const sent = new Metadata()
      for (const [key, value] of Object.entries(metadata)) sent.set(key, value)
      return new Promise((resolve) => {
        const deadline = { deadline: Date.now() + callTimeoutMs }
        const done = (error: ServiceError | null, answer?: Connection) => {
          if (answer) resolve({ answer })
          else resolve({ code: error?.code ?? 2, text: error?.details ?? 'no answer' })
        }
        client.makeUnaryRequest(
          codec.path,
          codec.requestSerialize,
          codec.responseDeserialize,
          request,
          sent,
          deadline,
          done,
        )
      })
    },
    close: () => client.close(),
  }
}

/** The token with other claims, signed by the same key: `signToken` makes honest ones only. */
function resigned(honest: string, claims: object, svid: Svid): string {
  const [header = '', payload = ''] = honest.split('.')
  const changed = { ...JSON.parse(Buffer.from(payload, 'base64url').toString()), ...claims }
  const body = `${header}.${Buffer.from(JSON.stringify(changed)).toString('base64url')}`
  return `${body}.${sign('sha256', Buffer.from(body), { key: svid.privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`
}
