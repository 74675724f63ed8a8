import { create } from '@bufbuild/protobuf'
import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt'
import { NsmError } from '../base/errors.ts'
import {
  type Connection,
  type Path,
  PathSchema,
  type PathSegment,
  PathSegmentSchema,
} from './generated/connection_pb.js'
import type { HopToken } from './peer.ts'

/* A path lists the hops client -> endpoint. `index` is the reader's own segment; on the way down each hop enters
 * (index + 1, its own id), on the way back it hands the caller's index and id back:
 *
 *   client 0 --enterPath--> manager 1 --enterPath--> endpoint 2
 *          <--leavePath(0)--          <--leavePath(1)--   (the endpoint trims what lies behind it) */

/** This hop: its name, unlike every other name on the path, and where fresh connection ids come from. */
export interface Hop {
  readonly name: string
  readonly newId: () => string
}

/** A path of one segment: what a client sends first. */
export function startPath(name: string, id: string): Path {
  return create(PathSchema, { index: 0, pathSegments: [{ name, id }] })
}

/**
 * Puts this hop onto the path and makes its segment the current one; the input stays as it was, and the result shares
 * with it whatever did not change, as every function here.
 * Throws `REFUSED` with NSM's own text when path and connection id disagree. [NSM sdk updatepath/common.go]
 */
export function enterPath(connection: Connection, hop: Hop): { readonly connection: Connection; callerIndex: number } {
  const path = connection.path ?? create(PathSchema)
  const callerIndex = path.index
  if (path.pathSegments.length === 0) return { connection: enterEmptyPath(connection, path, hop), callerIndex: 0 }
  const current = path.pathSegments[path.index]
  if (!current) throw indexBeyondPath(path)
  if (current.name === hop.name) return { connection: { ...connection, id: current.id }, callerIndex }
  return { connection: enterNextSegment(connection, path, hop), callerIndex }
}

/** Rule 0: the hop stands alone, and the policies refuse it for want of a caller's segment. */
function enterEmptyPath(connection: Connection, path: Path, hop: Hop): Connection {
  const id = connection.id || hop.newId()
  const pathSegments = [create(PathSegmentSchema, { name: hop.name, id })]
  return { ...connection, id, path: { ...path, index: 0, pathSegments } }
}

/** Rules 2.0 to 2.3. */
function enterNextSegment(connection: Connection, path: Path, hop: Hop): Connection {
  const currentId = path.pathSegments[path.index]?.id ?? ''
  if (currentId !== connection.id) throw idsDisagree(currentId, connection.id)
  const index = path.index + 1
  const next = path.pathSegments[index]
  if (next?.name === hop.name) return { ...connection, id: next.id, path: { ...path, index } }
  const own = next ? { ...next, name: hop.name } : create(PathSegmentSchema, { name: hop.name })
  own.id = hop.newId()
  return {
    ...connection,
    id: own.id,
    path: { ...path, index, pathSegments: path.pathSegments.toSpliced(index, 1, own) },
  }
}

/** Hands a connection back in the caller's view: its index, its id. */
export function leavePath(connection: Connection, callerIndex: number): Connection {
  const { path } = connection
  const segment = path?.pathSegments[callerIndex]
  return path && segment ? { ...connection, id: segment.id, path: { ...path, index: callerIndex } } : connection
}

/** Cuts the path behind the current segment: the last thing a final endpoint does. [NSM sdk trimpath] */
export function trimPath(connection: Connection): Connection {
  const { path } = connection
  if (!path) return connection
  return { ...connection, path: { ...path, pathSegments: path.pathSegments.slice(0, path.index + 1) } }
}

/**
 * Writes the caller's token into the segment before the current one and this hop's own token into the current one.
 * [NSM sdk updatetoken/server.go]
 */
export function stampTokens(
  connection: Connection,
  tokens: { readonly caller: HopToken | undefined; readonly own: HopToken },
): Connection {
  const { path } = connection
  if (!path) return connection
  const written = new Map([[path.index, tokens.own]])
  if (tokens.caller) written.set(path.index - 1, tokens.caller)
  const pathSegments = path.pathSegments.map((segment, i) => withToken(segment, written.get(i)))
  return { ...connection, path: { ...path, pathSegments } }
}

function withToken(segment: PathSegment, written: HopToken | undefined): PathSegment {
  if (!written) return segment
  return { ...segment, token: written.token, expires: timestampFromMs(written.expiresMs) }
}

/**
 * How long the originator waits before it refreshes: 0.2 + 0.2 x index / segments of the shortest remaining life,
 * a third of it when there is one segment. Segments without an end are skipped; 0 means at once. [NSM sdk refresh]
 */
export function refreshDelayMs(path: Path | undefined, nowMs: number): number {
  const segments = path?.pathSegments ?? []
  const ends = segments.flatMap((segment) => (segment.expires ? [timestampMs(segment.expires)] : []))
  if (ends.length === 0) return refreshWithoutEndMs
  const remainingMs = Math.max(0, Math.min(...ends) - nowMs)
  if (segments.length === 1) return remainingMs / 3
  return remainingMs * (0.2 + (0.2 * (path?.index ?? 0)) / segments.length)
}

/** Ours: a path without a single end says nothing; 0.2 of the default token life keeps such a peer's lease alive. */
const refreshWithoutEndMs = 120_000

/**
 * When this hop closes the connection by itself: the end of the segment before it, less the time that was left of the
 * request's deadline (0 without one). Wall milliseconds. Throws `REFUSED` without that end. [NSM sdk timeout/server.go]
 */
export function leaseEndMs(path: Path | undefined, remainingMs: number): number {
  const expires = path?.pathSegments[path.index - 1]?.expires
  if (!expires) {
    throw new NsmError(
      'REFUSED',
      'expiration for the previous path segment cannot be nil',
      'send nsm-client-token and nsm-client-token-expires with each call',
    )
  }
  return Math.floor(timestampMs(expires) - Math.max(0, remainingMs))
}

function idsDisagree(segmentId: string, connectionId: string): NsmError {
  return new NsmError(
    'REFUSED',
    `Current PathSegment.Id==${JSON.stringify(segmentId)} should be equal Connection.Id==${JSON.stringify(connectionId)}`,
    'send the path of the last answer unchanged',
  )
}

function indexBeyondPath(path: Path): NsmError {
  const length = path.pathSegments.length
  return new NsmError(
    'REFUSED',
    `Path.Index+1==${path.index + 1} should be less or equal len(Path.PathSegments)==${length}`,
    'send the path of the last answer unchanged',
  )
}
