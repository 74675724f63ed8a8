import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { escapeSegment, fillTemplate, unmatchedClaims } from '../../src/identity/oidc-claims.ts'

describe('unmatchedClaims', () => {
  test.each([
    ['the same text', { repository_id: ['5678'] }, { repository_id: '5678' }, []],
    ['a number as its text', { repository_id: ['5678'] }, { repository_id: 5678 }, []],
    ['a boolean as its text', { ref_protected: ['true'] }, { ref_protected: true }, []],
    ['one of a list', { event: ['push', 'tag'] }, { event: 'tag' }, []],
    ['a list that contains it', { groups: ['ops'] }, { groups: ['dev', 'ops'] }, []],
    ['a longer text', { ref: ['main'] }, { ref: 'main-evil' }, ['ref']],
    ['a shorter text', { ref: ['main'] }, { ref: 'mai' }, ['ref']],
    ['another case', { ref: ['main'] }, { ref: 'Main' }, ['ref']],
    ['a missing claim', { ref: ['main'] }, {}, ['ref']],
    ['a claim that only the prototype has', { constructor: ['x'] }, {}, ['constructor']],
    ['a missing claim against its text', { ref: ['undefined'] }, {}, ['ref']],
    ['null against its text', { ref: ['null'] }, { ref: null }, ['ref']],
    ['an object against its text', { ref: ['[object Object]'] }, { ref: {} }, ['ref']],
    ['a list against its joined text', { groups: ['a,b'] }, { groups: ['a', 'b'] }, ['groups']],
    ['a list inside a list', { groups: ['a'] }, { groups: [['a']] }, ['groups']],
    ['two claims of which one fits', { a: ['1'], b: ['2'] }, { a: '1', b: '3' }, ['b']],
  ])('%s', (_what, match, claims, missed) => {
    expect(unmatchedClaims(match, claims)).toEqual(missed)
  })
})

describe('fillTemplate', () => {
  test('puts claims into their segments', () => {
    const claims = { repository_id: 5678, environment: 'production' }
    const filled = fillTemplate('/ci/github/{repository_id}/{environment}', claims)
    expect(filled).toEqual({ path: '/ci/github/5678/production' })
  })

  test('no claim leaves its segment: slashes, dots and spaces are escaped', () => {
    expect(fillTemplate('/ci/{sub}', { sub: '../server' })).toEqual({ path: '/ci/.._2fserver' })
    expect(fillTemplate('/ci/{sub}', { sub: 'a b_c' })).toEqual({ path: '/ci/a_20b_5fc' })
  })

  test.each([[''], ['.'], ['..'], [undefined], [['a']], [{}], ['x'.repeat(600)]])(
    'a claim that is %j cannot be a segment',
    (sub) => {
      expect(fillTemplate('/ci/{sub}', { sub })).toEqual({ bad: 'sub' })
    },
  )

  test('two texts never give one segment, and each is of the ID alphabet', () => {
    const text = fc.string({ unit: 'binary', maxLength: 12 })
    fc.assert(
      fc.property(text, text, (one, other) => {
        expect(escapeSegment(one)).toMatch(/^[A-Za-z0-9._-]*$/)
        const isSame = Buffer.from(one).equals(Buffer.from(other))
        expect(escapeSegment(one) === escapeSegment(other)).toBe(isSame)
      }),
      { numRuns: 500 },
    )
  })
})
