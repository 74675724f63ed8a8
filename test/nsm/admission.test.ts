import { describe, expect, test } from 'vitest'
import type { AuditEvent } from '../../src/base/audit.ts'
import { NsmError } from '../../src/base/errors.ts'
import { openAdmission } from '../../src/nsm/admission.ts'
import { admissionOf, policyOf } from '../support/policy.ts'

const idOf = (path: string) => `spiffe://test.internal${path}`

describe('openAdmission', () => {
  test.each([
    ['nobody', [], false],
    ['a relay by its ID', [idOf('/client')], true],
    ['a relay by what is above it', [idOf('/*')], true],
    ['an ID that only begins alike', [idOf('/cli')], false],
    ['another trust domain', ['spiffe://test.internal.evil/*'], false],
    ['a star in another place', ['spiffe://*/client', '*'], false],
  ])('lets pass on requests of others: %s', (_what, relays, isGranted) => {
    expect(openAdmission({ relays }).decide({ id: idOf('/client'), action: 'relay', service: 'a' }).isGranted).toBe(
      isGranted,
    )
  })

  test('lets everybody do the rest but see and change what is of others', () => {
    const admission = openAdmission({})
    const may = (action: 'find' | 'admin' | 'monitor') => admission.decide({ id: idOf('/a'), action }).isGranted
    expect([may('find'), may('admin'), may('monitor')]).toEqual([true, false, false])
    expect(admission.check({ id: idOf('/a'), action: 'own', service: 'x' })).toBeUndefined()
    expect(() => admission.check({ id: idOf('/a'), action: 'admin' })).toThrow(/NOT_GRANTED: admin/)
  })
})

describe('PolicyAdmission', () => {
  const grants = [{ name: 'ci', who: idOf('/ci/**'), may: ['request'], services: ['red'] }]

  test('refuses with the action and the service alone, and audits why', () => {
    const events: AuditEvent[] = []
    const denies = [{ who: idOf('/ci/bad'), reason: 'compromised' }]
    const admission = admissionOf({ grants, denies }, { audit: { record: (event) => void events.push(event) } })
    const refusals = [
      { id: idOf('/ci/bad'), action: 'request', service: 'red' },
      { id: idOf('/other'), action: 'request', service: 'red' },
      { id: 'spiffe://evil.example/ci/a', action: 'request', service: 'red' },
    ] as const
    for (const question of refusals) {
      expect(() => admission.check(question)).toThrow(
        expect.objectContaining({ code: 'REFUSED', message: 'no sufficient privileges: NOT_GRANTED: request red' }),
      )
    }
    expect(events.map(({ event, reason }) => [event, reason])).toEqual([
      ['grant.deny', 'DENIED'],
      ['grant.deny', 'NOT_GRANTED'],
      ['grant.deny', 'UNKNOWN_DOMAIN'],
    ])
    expect(admission.check({ id: idOf('/ci/good'), action: 'request', service: 'red' })?.name).toBe('ci')
  })

  test('lets the servers of the network work, never administer, and not when they are denied', () => {
    const isSite = (id: string) => id === idOf('/server') || id === idOf('/site/a')
    const admission = admissionOf({ denies: [{ who: idOf('/**'), reason: 'all' }] }, { isSite })
    const may = (id: string, action: 'relay' | 'admin' | 'monitor') => admission.decide({ id, action }).isGranted
    expect([may(idOf('/server'), 'relay'), may(idOf('/site/a'), 'relay')]).toEqual([true, false])
    expect([may(idOf('/site/a'), 'admin'), may(idOf('/site/a'), 'monitor')]).toEqual([false, false])
    admission.replace(policyOf({}))
    expect(may(idOf('/site/a'), 'relay')).toBe(true)
    expect([may(idOf('/site/a'), 'admin'), may(idOf('/server'), 'monitor')]).toEqual([false, false])
  })

  test('tells of each change, until nobody listens any more', () => {
    const admission = admissionOf({ grants })
    const seen: boolean[] = []
    const stop = admission.onChange(() => seen.push(admission.isAdmitted(idOf('/ci/a'))))
    admission.replace(policyOf({}))
    admission.replace(policyOf({ grants }))
    stop()
    admission.replace(policyOf({}))
    expect(seen).toEqual([false, true])
    expect([admission.isExcluded(idOf('/ci/a')), admission.isExcluded('spiffe://evil.example/a')]).toEqual([
      false,
      true,
    ])
  })
})

test('a listener that fails keeps no other one from ending what it holds', () => {
  const admission = admissionOf({})
  const told: string[] = []
  admission.onChange(() => {
    throw new NsmError('BUG', 'the disk is full', 'make room')
  })
  admission.onChange(() => told.push('second'))
  expect(() => admission.replace(policyOf({}))).toThrow('the disk is full')
  expect(told).toEqual(['second'])
})
