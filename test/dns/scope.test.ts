import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { keyFromText, reverseNameOf } from '../../src/dns/message.ts'
import { ScopeTable } from '../../src/dns/scope.ts'

const label = fc.constantFrom('a', 'b', 'case', 'xcase', 'test', 'COM', 'internal', '_tcp', '1')
const domain = fc.array(label, { minLength: 1, maxLength: 5 }).map((labels) => labels.join('.'))

function tableOf(suffixes: readonly string[]): ScopeTable<string> {
  return new ScopeTable(suffixes.map((suffix) => ({ suffix, route: suffix.toLowerCase() })))
}

/** The reference: compare label by label from the right, keep the longest. */
function naive(suffixes: readonly string[], name: string): string | undefined {
  const labels = name.toLowerCase().split('.')
  const covering = suffixes
    .map((suffix) => suffix.toLowerCase())
    .filter((suffix) => {
      const own = suffix.split('.')
      return own.length <= labels.length && labels.slice(-own.length).join('.') === suffix
    })
  return covering.sort((x, y) => y.split('.').length - x.split('.').length)[0]
}

describe('ScopeTable', () => {
  test('finds the same scope as comparing label by label', () => {
    fc.assert(
      fc.property(fc.array(domain, { maxLength: 12 }), domain, (suffixes, name) => {
        expect(tableOf(suffixes).find(keyFromText(name))).toBe(naive(suffixes, name))
      }),
      { numRuns: 2_000 },
    )
  })

  test.each([
    ['xcase.test', undefined],
    ['case.test', 'case.test'],
    ['www.case.test', 'case.test'],
    ['www.SUB.Case.Test', 'sub.case.test'],
    ['test', undefined],
    ['case.test.example', undefined],
  ])('%s belongs to %s', (name, expected) => {
    expect(tableOf(['case.test', 'sub.case.test']).find(keyFromText(name))).toBe(expected)
  })

  test('a single label may be a scope, and the root covers everything', () => {
    expect(tableOf(['my-vl3']).find(keyFromText('pod.my-vl3'))).toBe('my-vl3')
    expect(tableOf(['.', 'a.test']).find(keyFromText('b.test'))).toBe('.')
    expect(tableOf(['.', 'a.test']).find(keyFromText('x.a.test'))).toBe('a.test')
  })

  test.each([
    ['10.64.0.5', '10.64.0.0/20'],
    ['10.64.15.255', '10.64.0.0/20'],
    ['10.64.16.0', undefined],
    ['10.64.3.1', '10.64.3.0/24'],
    ['fd00::5', 'fd00::/64'],
    ['fd00:0:0:1::5', undefined],
    ['127.0.0.1', undefined],
    ['169.254.1.1', undefined],
  ])('the reverse name of %s goes by its address to %s', (address, expected) => {
    const table = tableOf(['10.64.0.0/20', '10.64.3.0/24', 'fd00::/64', '0.0.0.0/1'].slice(0, 3))
    expect(table.find(keyFromText(reverseNameOf(address)))).toBe(expected)
    expect(tableOf(['127.0.0.0/8', '169.254.0.0/16']).find(keyFromText(reverseNameOf(address)))).toBeUndefined()
  })

  test('a malformed reverse name is an ordinary name', () => {
    const table = tableOf(['10.64.0.0/16', '64.10.in-addr.arpa'])
    expect(table.find(keyFromText('x.64.10.in-addr.arpa'))).toBe('64.10.in-addr.arpa')
    expect(table.find(keyFromText('x.65.10.in-addr.arpa'))).toBeUndefined()
  })

  test('counts its scopes and refuses what is no name', () => {
    expect(tableOf(['a', 'b', '10.0.0.0/8']).size).toBe(3)
    expect(() => tableOf(['a..b'])).toThrow('a..b')
  })
})
