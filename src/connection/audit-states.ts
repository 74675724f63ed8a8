import type { Audit, AuditEvent, AuditName } from '../base/audit.ts'
import type { NsmError } from '../base/errors.ts'
import { OutOfBounds } from './driver.ts'
import type { Lease, State } from './lifecycle.ts'

/**
 * Records what becomes of one connection, from its states in their order; `about` says whose it is, at that moment. What an
 * endpoint wanted and did not get is on record too, also where the connection goes on without it.
 */
export function auditStates<L extends Lease>(
  audit: Audit,
  about: () => Omit<AuditEvent, 'event'>,
): (state: State<L>) => void {
  let kind: State<L>['kind'] = 'requesting'
  let wasUp = false
  let lastError: NsmError | undefined
  const record = (event: AuditName, more: { readonly reason?: string; readonly rules?: string } = {}) =>
    audit.record({ ...about(), event, ...more })
  return (state) => {
    const error = errorOf(state)
    if (error && error !== lastError) for (const event of refusals(error)) record(event, { rules: error.message })
    lastError = error
    if (state.kind === kind) return
    kind = state.kind
    if (kind === 'up') record(wasUp ? 'conn.heal' : 'conn.up')
    if (kind === 'closed' && wasUp) record('conn.down', { reason: error?.code ?? 'closed' })
    wasUp ||= kind === 'up'
  }
}

function errorOf<L extends Lease>(state: State<L>): NsmError | undefined {
  if (state.kind === 'closed') return state.why
  return state.kind === 'requesting' ? undefined : state.error
}

/** What an auditor calls it. */
function refusals(error: NsmError): AuditName[] {
  if (error.code === 'CONFLICT') return ['route.conflict']
  if (!(error instanceof OutOfBounds)) return []
  return error.message.includes('the DNS zone ') ? ['context.refused', 'dns.scope.refused'] : ['context.refused']
}
