import { chmod } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import { type Audit, noAudit } from '../base/audit.ts'
import type { Clock } from '../base/clock.ts'
import { listenPrivately } from '../base/listen-privately.ts'
import type { Log } from '../base/log.ts'
import type { MethodBinding } from '../nsm/grpc.ts'
import type { GrpcConnection } from '../nsm/grpc-connection.ts'
import { serveLocally } from '../nsm/local-connection.ts'
import { canReadCredentials, type PeerCredentials, peerCredentials } from './peer-credentials.ts'

/** Everything the socket is made from. */
export interface WorkloadSocketSettings {
  readonly path: string
  readonly methods: readonly MethodBinding[]
  /** Whether processes of this user may call; root and the own user may in any case. */
  readonly isAdmitted: (uid: number) => boolean
  readonly clock: Clock
  readonly log: Log
  readonly audit?: Audit
  /** The kernel's word on a peer; a double in tests. */
  readonly credentialsOf?: (socket: Socket) => PeerCredentials | undefined
}

/** A socket that is served. */
export interface WorkloadSocket {
  /** Ends every stream and removes the socket. */
  close(): Promise<void>
}

/** Ours [security L15]: applications keep one connection each; with 100 streams on each it is bounded. */
const connectionsMax = 64
/** Ours [security L15]: a client of gRPC says its first word at once. */
const firstWordMs = 5_000

/**
 * Serves applications of this machine on a unix socket. A process of root opens it to other users only where the kernel
 * says who calls [security L2]. The caller knows that nobody else serves the path. Throws `CONFLICT`.
 */
export async function openWorkloadSocket(settings: WorkloadSocketSettings): Promise<WorkloadSocket> {
  const { path, methods, clock, log, audit = noAudit, credentialsOf = peerCredentials } = settings
  const connections = new Map<Socket, GrpcConnection>()
  /** Said once for each user: it is up to them how often they try. */
  const refused = new Set<number | undefined>()
  const server = createServer((socket) => {
    socket.on('error', () => {})
    if (connections.size >= connectionsMax) return void socket.destroy()
    const peer = credentialsOf(socket)
    if (!mayCall(peer, settings)) {
      if (!refused.has(peer?.uid)) log.warn('an application of another user was refused', { peer: `uid ${peer?.uid}` })
      refused.add(peer?.uid)
      audit.record({ event: 'socket.deny', uid: peer?.uid, method: 'workload' })
      return void socket.destroy()
    }
    connections.set(socket, serveLocally(socket, methods, clock))
    const spoke = clock.after(firstWordMs, () => socket.destroy())
    socket.once('data', spoke)
    socket.once('close', () => {
      spoke()
      connections.delete(socket)
    })
  })
  const stop = await listenPrivately(server, path)
  if (process.getuid?.() === 0 && canReadCredentials()) await chmod(path, 0o666)
  return {
    async close() {
      const stopped = stop()
      await Promise.all([...connections.values()].map((connection) => connection.stop()))
      await stopped
    },
  }
}

/** Without the kernel's word the socket's mode has let only the own user in. */
function mayCall(peer: PeerCredentials | undefined, { isAdmitted }: WorkloadSocketSettings): boolean {
  if (!peer) return !canReadCredentials()
  return peer.uid === 0 || peer.uid === process.getuid?.() || isAdmitted(peer.uid)
}
