import { type DSAEncoding, sign } from 'node:crypto'
import { fromBinary, toBinary } from '@bufbuild/protobuf'
import type { status } from '@grpc/grpc-js'
import type { IdentitySource, Svid } from '../../src/identity/source.ts'
import { signToken } from '../../src/identity/token.ts'
import type { Target } from '../../src/nsm/channel.ts'
import { type Connection, ConnectionSchema } from '../../src/nsm/generated/connection_pb.js'
import { type NetworkServiceRequest, NetworkServiceRequestSchema } from '../../src/nsm/generated/networkservice_pb.js'
import { openWireCaller, type Sent } from '../support/wire-caller.ts'

/** How a raw call ended: the answer, or the bare gRPC status. */
export type RawEnd =
  | { readonly answer: Connection; readonly code?: undefined; readonly text?: undefined }
  | { readonly answer?: undefined; readonly code: status; readonly text: string }

/** What is not as an honest token has it. */
export interface TokenChange {
  readonly claims?: object
  readonly svid?: Svid
  /** JWT asks for `ieee-p1363`. */
  readonly dsaEncoding?: DSAEncoding
}

/** A caller with a real certificate that makes its metadata itself. */
export interface RawCaller {
  readonly svid: Svid
  /** A token for the server, with parts of it changed. */
  token(change?: TokenChange): string
  /** Sends a Request with exactly these metadata. */
  request(request: NetworkServiceRequest, metadata: Readonly<Record<string, string>>): Promise<RawEnd>
  close(): void
}

/** Metadata keys, as text: a change in our constants shows here. */
export const tokenKey = 'nsm-client-token'
export const expiresKey = 'nsm-client-token-expires'

/** Connects a caller to one server. */
export async function openRawCaller(target: Target, source: IdentitySource, audience: string): Promise<RawCaller> {
  const { svid } = source.current()
  const caller = await openWireCaller(target, svid, audience)
  const nothing: Sent = { [tokenKey]: undefined, [expiresKey]: undefined }
  return {
    svid,
    token({ svid: signer = svid, ...change } = {}) {
      return resigned(signToken({ svid: signer, audience, expiresMs: Date.now() + 600_000 }), change, signer)
    },
    async request(request, metadata) {
      const wire = toBinary(NetworkServiceRequestSchema, request)
      const sent = { ...nothing, ...metadata }
      const { code, message, messages } = await caller.call('/networkservice.NetworkService/Request', wire, sent)
      const [answer] = messages
      if (code !== 0 || !answer) return { code, text: message }
      return { answer: fromBinary(ConnectionSchema, answer) }
    },
    close: () => caller.close(),
  }
}

/** The token with other claims, signed by the same key: `signToken` makes honest ones only. */
function resigned(honest: string, { claims = {}, dsaEncoding = 'ieee-p1363' }: TokenChange, svid: Svid): string {
  const [header = '', payload = ''] = honest.split('.')
  const changed = { ...JSON.parse(Buffer.from(payload, 'base64url').toString()), ...claims }
  const body = `${header}.${Buffer.from(JSON.stringify(changed)).toString('base64url')}`
  return `${body}.${sign('sha256', Buffer.from(body), { key: svid.privateKey, dsaEncoding }).toString('base64url')}`
}
