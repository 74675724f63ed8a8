import type { NsmError } from '../base/errors.ts'
import type { Admission, PolicyDecision } from '../nsm/admission.ts'
import { policyRefusal } from '../nsm/grpc-errors.ts'
import type { Member } from './members.ts'

/** Who is, or wants to be, a member. */
export type Asking = Pick<Member, 'spiffeId' | 'origin'>

/** May somebody be a member of the service? A relay needs the right to ask for others, and its origin that to be one. */
export function decideMember(admission: Admission, service: string, { spiffeId, origin }: Asking): PolicyDecision {
  const request = admission.decide({ id: origin ?? spiffeId, action: 'request', service })
  if (origin === undefined || origin === spiffeId || !request.isGranted) return request
  const relay = admission.decide({ id: spiffeId, action: 'relay', service })
  return relay.isGranted ? request : relay
}

/** Why a lease ended or was not brought back. */
export const notAdmitted = 'not admitted any more'

/** The refusal of somebody who may not be a member. */
export function refusedMember(): NsmError {
  return policyRefusal('this identity is not admitted')
}
