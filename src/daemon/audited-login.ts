import { type Audit, noAudit } from '../base/audit.ts'
import { reasonOf } from '../identity/refusal.ts'

/** Whose identity it is to be. */
interface Login {
  readonly audit?: Audit | undefined
  readonly trustDomain: string
}

/** Asks for an identity; it, or why there is none, is on record before anybody uses it. */
export async function auditedLogin<T>(
  { audit = noAudit, trustDomain }: Login,
  ask: () => Promise<T>,
  idOf: (made: T) => string,
): Promise<T> {
  try {
    const made = await ask()
    audit.record({ event: 'login.ok', id: idOf(made), trustDomain })
    return made
  } catch (error) {
    audit.record({ event: 'login.fail', trustDomain, reason: reasonOf(error) })
    throw error
  }
}
