import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isTrustDomain, parseSpiffeId } from '../../src/identity/spiffe-id.ts'
import { reasonOf } from './fixtures.ts'

const good: readonly (readonly [string, string, string])[] = [
  ['spiffe://trustdomain', 'trustdomain', ''],
  ['spiffe://trustdomain/path', 'trustdomain', '/path'],
  ['spiffe://trustdomain/path1/path2', 'trustdomain', '/path1/path2'],
  ['spiffe://trustdomain/Path_9.a-B', 'trustdomain', '/Path_9.a-B'],
  ['spiffe://10.2.3.4/x', '10.2.3.4', '/x'],
  ['spiffe://a.b-c_d.9/x', 'a.b-c_d.9', '/x'],
  ['spiffe://-/..x', '-', '/..x'],
  ['spiffe://domain/...', 'domain', '/...'],
  ['spiffe://domain/.a/a.', 'domain', '/.a/a.'],
  [`spiffe://${'a'.repeat(255)}/x`, 'a'.repeat(255), '/x'],
  [`spiffe://a/${'x'.repeat(2037)}`, 'a', `/${'x'.repeat(2037)}`],
]

const bad: readonly string[] = [
  '',
  'spiffe://',
  'spiffe:///path',
  'spiffe:/trustdomain/path',
  'Spiffe://trustdomain/path',
  'SPIFFE://trustdomain',
  'http://trustdomain/path',
  'trustdomain/path',
  ' spiffe://trustdomain/path',
  'spiffe://trustdomain/path ',
  'spiffe://trustdomain/path\n',
  'spiffe://Trustdomain/path',
  'spiffe://trust domain/path',
  'spiffe://trust%20domain/path',
  'spiffe://user@trustdomain/path',
  'spiffe://user:pass@trustdomain/path',
  'spiffe://trustdomain:8080/path',
  'spiffe://[::1]/path',
  'spiffe://trustdomain/',
  'spiffe://trustdomain//path',
  'spiffe://trustdomain/path/',
  'spiffe://trustdomain/path//',
  'spiffe://trustdomain/.',
  'spiffe://trustdomain/..',
  'spiffe://trustdomain/./path',
  'spiffe://trustdomain/path/../other',
  'spiffe://trustdomain/path?query',
  'spiffe://trustdomain/path#fragment',
  'spiffe://trustdomain?query',
  'spiffe://trustdomain/pa%20th',
  'spiffe://trustdomain/pa th',
  'spiffe://trustdomain/ünï',
  'spiffe://ünï/path',
  'spiffe://trustdomain/a\u0000b',
  'spiffe://trustdomain\\path',
  `spiffe://${'a'.repeat(256)}/x`,
  `spiffe://a/${'x'.repeat(2038)}`,
]

describe('SPIFFE ID', () => {
  test.each(good)('%s is one', (text, trustDomain, path) => {
    expect(parseSpiffeId(text)).toEqual({ trustDomain, path })
  })

  test.each(bad)('%j is none', (text) => {
    expect(reasonOf(() => parseSpiffeId(text))).toBe('ID_INVALID')
  })

  test('of any two parts is read as these', () => {
    const domain = fc.stringMatching(/^[a-z0-9._-]{1,60}$/)
    const segment = fc.stringMatching(/^[a-zA-Z0-9._-]{1,20}$/).filter((text) => text !== '.' && text !== '..')
    fc.assert(
      fc.property(domain, fc.array(segment, { maxLength: 5 }), (trustDomain, segments) => {
        const id = { trustDomain, path: segments.map((one) => `/${one}`).join('') }
        expect(parseSpiffeId(`spiffe://${id.trustDomain}${id.path}`)).toEqual(id)
      }),
    )
  })

  test('is refused in time that grows with the length only', () => {
    expect(reasonOf(() => parseSpiffeId(`spiffe://a${'/.a'.repeat(600)}!`))).toBe('ID_INVALID')
  })

  test('a refusal quotes at most 80 characters of what was sent', () => {
    try {
      parseSpiffeId('!'.repeat(5000))
    } catch (error) {
      expect(String(error).length).toBeLessThan(160)
    }
  })

  test.each([
    ['a.example', true],
    ['', false],
    ['A.example', false],
    ['a.example/', false],
    ['a'.repeat(256), false],
  ])('trust domain %j: %s', (text, expected) => {
    expect(isTrustDomain(text)).toBe(expected)
  })
})
