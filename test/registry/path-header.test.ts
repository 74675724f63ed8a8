import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { enterRegistrationPath, formatRegistrationPath, parseRegistrationPath } from '../../src/registry/path-header.ts'

describe('the registration path', () => {
  test('is JSON with capitals, as NSM writes it', () => {
    expect(formatRegistrationPath({ index: 0, tokens: ['a'] })).toBe('{"Index":0,"PathSegments":[{"token":"a"}]}')
  })

  test.each([
    ['{"Index":0,"PathSegments":null}', { index: 0, tokens: [] }],
    ['{}', { index: 0, tokens: [] }],
    ['{"Index":1,"PathSegments":[{"token":"a"},{"token":"b"}]}', { index: 1, tokens: ['a', 'b'] }],
  ])('reads %s', (text, expected) => {
    expect(parseRegistrationPath(text)).toEqual(expected)
  })

  test.each([
    '',
    'null',
    '[]x',
    '{"Index":-1}',
    '{"Index":1.5}',
    '{"Index":"0"}',
    '{"PathSegments":{}}',
    '{"PathSegments":[{}]}',
    '{"PathSegments":["a"]}',
  ])('refuses %s', (text) => {
    expect(() => parseRegistrationPath(text)).toThrow('cannot be read')
  })

  test('gets the caller and this hop at the first registration, and keeps its length at a refresh', () => {
    const first = enterRegistrationPath({ index: 0, tokens: [] }, { caller: 'c1', own: 'o1' })
    expect(first).toEqual({ index: 1, tokens: ['c1', 'o1'] })
    expect(enterRegistrationPath({ ...first, index: 0 }, { caller: 'c2', own: 'o2' })).toEqual({
      index: 1,
      tokens: ['c2', 'o2'],
    })
  })

  test('refuses an index behind its end', () => {
    expect(() => enterRegistrationPath({ index: 2, tokens: ['a', 'b'] }, { caller: 'c', own: 'o' })).toThrow(
      'cannot be read',
    )
  })

  test('throws REFUSED or answers, whatever the text', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
        try {
          expect(parseRegistrationPath(text).tokens).toBeInstanceOf(Array)
        } catch (error) {
          expect(error).toMatchObject({ code: 'REFUSED' })
        }
      }),
    )
  })
})
