import type { Socket } from 'node:net'
import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import { byPath, type MethodBinding } from './grpc.ts'
import type { CallOrigin } from './grpc-call.ts'
import { type GrpcConnection, serveConnection } from './grpc-connection.ts'

/**
 * Serves the methods to a process of this machine over a unix socket, without TLS. Who it is, the kernel has said and the
 * caller has judged: methods for verified peers refuse it.
 */
export function serveLocally(socket: Socket, methods: readonly MethodBinding[], clock: Clock): GrpcConnection {
  return serveConnection(socket, { methods: byPath(methods), origin: localOrigin, clock, isLocal: true })
}

const localOrigin: CallOrigin = {
  own: {
    spiffeId: '',
    token() {
      throw new NsmError('BUG', 'a local call has no hop to sign for', 'report it')
    },
  },
  address: '',
  visit: undefined,
  peerOf: () => undefined,
}
