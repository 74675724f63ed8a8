import type { NsmError } from '../base/errors.ts'
import type { Prefix } from '../base/ip.ts'
import type { Log } from '../base/log.ts'
import type { UndoStack } from '../base/undo.ts'
import type { IdentitySource } from '../identity/source.ts'
import type { MethodBinding } from '../nsm/grpc.ts'
import type { Registry } from '../registry/registry.ts'
import type { Invitation, InviteResult } from './inviter.ts'

/* A server has one of two homes: the first site, which holds the authority, the join tokens and the plan of prefixes
 * (serve-first.ts), or a further site, which asks the first one for all of these (serve-site.ts). */

/** What is logged and what is to be undone. */
export interface Around {
  readonly log: Log
  readonly undo: UndoStack
}

/** The network that all its sites serve together. */
export interface Network {
  readonly service: string
  /** All of it; each site has a part. */
  readonly prefixes: readonly string[]
  /** DNS domain of the members. */
  readonly dnsDomain: string
}

/** What a server is at home in: who it is, what it serves, what it does for others. */
export interface Home {
  readonly source: IdentitySource
  readonly spiffeId: string
  readonly trustDomain: string
  readonly network: Network
  /** Unlike that of every other site. */
  readonly endpointName: string
  readonly managerName: string
  /** What of the prefixes is this site's. */
  readonly parts: readonly string[]
  takePart(whole: Prefix): Promise<Prefix>
  /** False: those prefixes are not that site's. */
  mayHold(spiffeId: string, prefixes: readonly string[]): boolean
  /** What it serves beside registry and manager. */
  readonly services: readonly MethodBinding[]
  invite(wanted: Invitation): Promise<InviteResult>
  /** The join string without a token, for those who show an ID token of an issuer; absent when there is no issuer. */
  readonly openJoinString?: () => string
  /** Makes the endpoint known once the server listens. */
  register(made: { readonly registry: Registry; readonly url: string; readonly site: string }): Promise<void>
  /** Resolves when the server cannot go on. */
  readonly failed: Promise<NsmError>
}
