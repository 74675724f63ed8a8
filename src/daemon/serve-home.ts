import type { Socket } from 'node:net'
import type { Audit } from '../base/audit.ts'
import type { NsmError } from '../base/errors.ts'
import type { Prefix } from '../base/ip.ts'
import type { Log } from '../base/log.ts'
import type { UndoStack } from '../base/undo.ts'
import type { Authority } from '../identity/ca.ts'
import type { Federation } from '../identity/federation.ts'
import type { IdentitySource } from '../identity/source.ts'
import type { Admission } from '../nsm/admission.ts'
import type { MethodBinding } from '../nsm/grpc.ts'
import type { Registry } from '../registry/registry.ts'
import type { Invitation, InviteResult } from './inviter.ts'
import type { PolicyState } from './policy-protocol.ts'

/* A server has one of two homes: the first site, which holds the authority, the join tokens and the plan of prefixes
 * (serve-first.ts), or a further site, which asks the first one for all of these (serve-site.ts). */

/** What is logged, what an auditor gets, and what is to be undone. */
export interface Around {
  readonly log: Log
  readonly audit: Audit
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
  /** The join string without a token, for those who show an ID token of an issuer; undefined while no issuer is believed. */
  openJoinString(): string | undefined
  /** What only the first site has: the authority, and the domains it federates with. */
  readonly authority?: Pick<Authority, 'document' | 'rotation'>
  readonly federation?: Federation
  /** Gives the bundle to other domains. */
  readonly onWeb?: (socket: Socket) => void
  /** Who may do what here. */
  readonly admission: Admission
  /** The policy in force; undefined without a policy file. */
  policyState(): PolicyState | undefined
  /** Reads the files of the policy and of the issuers again; a bad one changes nothing. */
  reload(): Promise<void>
  /** Makes the endpoint known once the server listens. */
  register(made: { readonly registry: Registry; readonly url: string; readonly site: string }): Promise<void>
  /** Resolves when the server cannot go on. */
  readonly failed: Promise<NsmError>
}
