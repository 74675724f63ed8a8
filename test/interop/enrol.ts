import { systemClock } from '../../src/base/clock.ts'
import { enrol } from '../../src/identity/enrolled.ts'
import { parseJoinString } from '../../src/identity/join-string.ts'
import { exchangeJoinToken } from '../../src/nsm/exchange.ts'

/** Gets the identity for a join string of a server of ours and writes it into a file, as `nsm` does. */
export async function enrolInto(statePath: string, joinString: string): Promise<void> {
  const clock = systemClock
  const join = parseJoinString(joinString)
  const exchange = (csr: Uint8Array, signal: AbortSignal) => exchangeJoinToken({ join, csr, clock }, signal)
  await enrol({ statePath, serverUrl: joinString, clock, exchange })
}
