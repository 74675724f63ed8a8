import { describe, expect, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { NsmError } from '../../src/base/errors.ts'
import { auditStates } from '../../src/connection/audit-states.ts'
import { OutOfBounds } from '../../src/connection/driver.ts'
import type { Lease, State } from '../../src/connection/lifecycle.ts'

const lease: Lease = { refreshAtMs: 0 }
const up = (error?: NsmError): State<Lease> => ({ kind: 'up', lease, sinceMs: 0, flaps: 0, ...(error && { error }) })
const healing = (error: NsmError): State<Lease> => {
  const path = { purpose: 'renew', isPathAlive: true, isApplying: false, flaps: 0 } as const
  return { kind: 'healing', lease, attempt: 0, ...path, error }
}
const closed = (why?: NsmError): State<Lease> => ({ kind: 'closed', ...(why && { why }) })
const lost = new NsmError('UNREACHABLE', 'no answer', 'wait')
const conflict = new NsmError('CONFLICT', '10.64.0.0/16 overlaps 10.64.0.0/24 (eth1)', 'free it')
const outside = (text: string) => new OutOfBounds(lease, new NsmError('REFUSED', text, 'ask'))

function recorded(states: readonly State<Lease>[]): AuditEvent[] {
  const events: AuditEvent[] = []
  const take = auditStates<Lease>({ record: (event) => events.push(event) }, () => ({
    id: 'a',
    address: '10.64.0.2/32',
  }))
  for (const state of [{ kind: 'requesting', attempt: 0 } as const, ...states]) take(state)
  return events
}

const about = { id: 'a', address: '10.64.0.2/32' }

describe('the record of a connection', () => {
  test('says when it is up, healed and down, once each', () => {
    const events = recorded([up(), up(), healing(lost), healing(lost), up(), closed()])
    expect(events).toEqual([
      { event: 'conn.up', ...about },
      { event: 'conn.heal', ...about },
      { event: 'conn.down', ...about, reason: 'closed' },
    ])
  })

  test('says why it is down', () => {
    expect(recorded([up(), closed(lost)]).at(-1)).toMatchObject({ event: 'conn.down', reason: 'UNREACHABLE' })
  })

  test('has nothing of one that never came up but what its endpoint wanted', () => {
    expect(recorded([closed(lost)])).toEqual([])
    expect(recorded([closed(outside('the answer is outside the bounds: 0.0.0.0/0 is a default route'))])).toEqual([
      { event: 'context.refused', ...about, rules: expect.stringContaining('0.0.0.0/0') },
    ])
  })

  test.each([
    [outside('outside: MTU 1 is outside 1280 to 9000'), ['context.refused']],
    [outside('outside: the DNS zone "corp" is not the service\'s'), ['context.refused', 'dns.scope.refused']],
    [conflict, ['route.conflict']],
    [new OutOfBounds(lease, conflict), ['route.conflict']],
    [lost, []],
  ])('of one that is up has what was refused and goes on: %s', (error, expected) => {
    const events = recorded([up(), up(error), up(error)])
    expect(events.slice(1).map(({ event }) => event)).toEqual(expected)
  })

  test('repeats a refusal that comes again after it was over', () => {
    const names = recorded([up(), healing(conflict), up(), healing(conflict)]).map(({ event }) => event)
    expect(names).toEqual(['conn.up', 'route.conflict', 'conn.heal', 'route.conflict'])
  })
})
