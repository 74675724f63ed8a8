/** What an auditor asks for; the names are stable. */
export type AuditName =
  | 'login.ok'
  | 'login.fail'
  | 'exchange.ok'
  | 'exchange.deny'
  | 'jwt.ok'
  | 'jwt.deny'
  | 'svid.rotated'
  | 'svid.expiring'
  | 'svid.expired'
  | 'peer.reject'
  | 'policy.reload'
  | 'policy.error'
  | 'grant.deny'
  | 'nse.register'
  | 'nse.expire'
  | 'nse.deny'
  | 'conn.up'
  | 'conn.down'
  | 'conn.heal'
  | 'context.refused'
  | 'route.conflict'
  | 'dns.scope.refused'
  | 'socket.deny'
  | 'state.repaired'
  | 'bundle.update'
  | 'bundle.error'
  | 'ca.rotate'
  | 'wg.underload.on'
  | 'wg.underload.off'
  | 'wg.spoof'

/** One event; never holds a secret. Text of others may be of any length and content: the writer bounds and escapes it. */
export interface AuditEvent {
  readonly event: AuditName
  /** Who: a SPIFFE ID, or what was shown in its place. */
  readonly id?: string | undefined
  readonly service?: string | undefined
  /** Stable code of a refusal. */
  readonly reason?: string | undefined
  readonly [field: string]: string | number | boolean | undefined
}

/** Takes events in the order in which they happen; never throws and never waits. */
export interface Audit {
  record(event: AuditEvent): void
}

/** For parts that nobody audits. */
export const noAudit: Audit = { record: () => {} }
