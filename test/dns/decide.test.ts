import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ReplyClass } from '../../src/dns/classify.ts'
import { type Clocks, type Decision, decide, type Voice } from '../../src/dns/decide.ts'
import type { ScopeMode } from '../../src/dns/scope.ts'

const early: Clocks = { holdOver: false, graceOver: false, deadlineOver: false }
const afterHold: Clocks = { ...early, holdOver: true }
const afterGrace: Clocks = { ...early, graceOver: true }
const late: Clocks = { holdOver: true, graceOver: true, deadlineOver: true }

type Short = ReplyClass | 'silent' | 'unreachable' | 'nodata+soa'

function voice(owner: boolean, short: Short): Voice {
  if (short === 'silent' || short === 'unreachable') return { owner, state: short, reply: undefined }
  const hasSoa = short === 'nodata+soa'
  return { owner, state: 'spoken', reply: { class: hasSoa ? 'nodata' : short, hasSoa } }
}

/** 'wait', 'unreachable', or who is given: 'owner nxdomain', with '*' when partial. */
function text(decision: Decision<Voice>): string {
  if (decision.kind !== 'answer') return decision.kind
  const { owner, reply } = decision.voice
  return `${owner ? 'owner' : 'host'} ${reply?.class}${decision.partial ? '*' : ''}`
}

describe('decide', () => {
  test.each<[ScopeMode, Short[], Short[], Clocks, string]>([
    ['fanout', ['silent'], ['positive'], early, 'host positive'],
    ['fanout', ['positive'], ['silent'], early, 'owner positive'],
    ['fanout', ['nxdomain'], ['silent'], early, 'wait'],
    ['fanout', ['nxdomain'], ['silent'], afterGrace, 'owner nxdomain*'],
    ['fanout', ['nxdomain'], ['unreachable'], early, 'owner nxdomain*'],
    ['fanout', ['nxdomain'], ['nxdomain'], early, 'owner nxdomain'],
    ['fanout', ['nxdomain'], ['nodata'], early, 'host nodata'],
    ['fanout', ['nodata'], ['nodata+soa'], early, 'host nodata'],
    ['fanout', ['nodata+soa'], ['nodata'], early, 'owner nodata'],
    ['fanout', ['failure'], ['nxdomain'], early, 'host nxdomain'],
    ['fanout', ['refused'], ['failure'], early, 'host failure'],
    ['fanout', ['failure'], ['silent'], afterGrace, 'wait'],
    ['fanout', ['failure'], ['silent'], late, 'owner failure*'],
    ['fanout', ['silent'], ['nxdomain'], early, 'wait'],
    ['fanout', ['silent'], ['nxdomain'], afterGrace, 'unreachable'],
    ['fanout', ['unreachable'], ['nodata'], early, 'unreachable'],
    ['fanout', ['refused', 'silent'], ['nxdomain'], afterGrace, 'host nxdomain*'],
    ['fanout', ['silent'], ['silent'], late, 'unreachable'],
    ['fanout', ['unreachable'], ['unreachable'], early, 'unreachable'],
    ['fanout', ['truncated'], ['nxdomain'], early, 'owner truncated'],
    ['fanout', ['alias'], ['nodata'], early, 'owner alias'],
    ['fanout', [], ['nxdomain', 'silent'], early, 'host nxdomain'],
    ['fanout', [], ['refused', 'silent'], early, 'wait'],
    ['fanout', [], ['unreachable', 'nodata'], early, 'host nodata'],
    ['prefer-service', ['silent'], ['positive'], early, 'wait'],
    ['prefer-service', ['silent'], ['positive'], afterHold, 'host positive'],
    ['prefer-service', ['nodata'], ['positive'], early, 'owner nodata'],
    ['prefer-service', ['nodata', 'silent'], ['positive'], early, 'wait'],
    ['prefer-service', ['nodata', 'silent'], ['positive'], afterHold, 'owner nodata'],
    ['prefer-service', ['nxdomain'], ['positive'], early, 'host positive'],
    ['prefer-service', ['unreachable'], ['positive'], early, 'host positive'],
    ['prefer-service', ['positive'], ['positive'], early, 'owner positive'],
    ['exclusive', ['nxdomain'], [], early, 'owner nxdomain'],
    ['exclusive', ['nxdomain', 'positive'], [], early, 'owner positive'],
    ['exclusive', ['unreachable'], [], early, 'unreachable'],
  ])('%s, owners %j, host %j', (mode, owners, hosts, clocks, expected) => {
    const voices = [...owners.map((short) => voice(true, short)), ...hosts.map((short) => voice(false, short))]
    expect(text(decide(voices, mode, clocks))).toBe(expected)
  })

  test("an owner's NODATA ends a fan-out at once when it gave the other family before", () => {
    const voices = [voice(true, 'nodata'), voice(false, 'silent')]
    expect(text(decide(voices, 'fanout', { ...early, ownerNoIsFinal: true }))).toBe('owner nodata')
    expect(text(decide(voices, 'fanout', early))).toBe('wait')
  })

  const shorts: Short[] = [
    'positive',
    'alias',
    'truncated',
    'nodata',
    'nodata+soa',
    'nxdomain',
    'failure',
    'refused',
    'silent',
    'unreachable',
  ]
  const anyVoice = fc.tuple(fc.boolean(), fc.constantFrom(...shorts)).map(([owner, short]) => voice(owner, short))
  const anyVoices = fc.array(anyVoice, { minLength: 1, maxLength: 6 })

  test('never waits after the deadline, and never when all have spoken and the hold is over', () => {
    fc.assert(
      fc.property(anyVoices, fc.constantFrom<ScopeMode>('fanout', 'prefer-service', 'exclusive'), (voices, mode) => {
        expect(decide(voices, mode, late).kind).not.toBe('wait')
        const spoken = voices.every(({ state }) => state !== 'silent')
        if (spoken) expect(decide(voices, mode, afterHold).kind).not.toBe('wait')
      }),
    )
  })

  test('gives a positive whenever a fan-out has one', () => {
    fc.assert(
      fc.property(anyVoices, (voices) => {
        const has = voices.some(({ reply }) => reply?.class === 'positive')
        const decision = decide(voices, 'fanout', early)
        if (has) expect(text(decision)).toMatch(/positive$/)
      }),
    )
  })

  test("never gives the host's plain no while no owner spoke", () => {
    fc.assert(
      fc.property(anyVoices, (voices) => {
        const owners = voices.filter(({ owner }) => owner)
        const decision = decide(voices, 'fanout', late)
        if (owners.length > 0 && owners.every(({ state }) => state !== 'spoken')) {
          expect(text(decision)).not.toMatch(/^host (nxdomain|nodata)/)
        }
      }),
    )
  })
})
