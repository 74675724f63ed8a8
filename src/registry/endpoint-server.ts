import type { Connection } from '../nsm/generated/connection_pb.js'
import type { NetworkServiceRequest } from '../nsm/generated/networkservice_pb.js'
import type { PeerContext } from '../nsm/peer.ts'

/**
 * An endpoint in this process, behind the manager. `peer` is the client that TLS verified; the connection's path points
 * at the manager's segment, which already carries the manager's token for this endpoint, so the endpoint enters the
 * path, stamps its own token and trims, as any NSM endpoint does.
 */
export interface EndpointServer {
  request(request: NetworkServiceRequest, peer: PeerContext, signal: AbortSignal): Promise<Connection>
  close(connection: Connection, peer: PeerContext): Promise<void>
}
