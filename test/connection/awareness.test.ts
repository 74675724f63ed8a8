import { describe, expect, test } from 'vitest'
import { mayOverlap } from '../../src/connection/awareness.ts'

describe('mayOverlap', () => {
  const groups = [
    ['kernel://red', 'blue@clinic.example/nsm-1?app=x'],
    ['red', 'green'],
  ]

  test.each([
    ['two services of one group', 'red', 'blue@clinic.example', true],
    ['in either order', 'green', 'red', true],
    ['services of two groups that share a third one', 'blue@clinic.example', 'green', false],
    ['the same name in another domain', 'red', 'blue', false],
    ['a service of no group', 'red', 'yellow', false],
  ])('%s', (_, a, b, expected) => {
    expect(mayOverlap(groups, [a, b])).toBe(expected)
  })

  test('without groups nobody may', () => {
    expect(mayOverlap([], ['red', 'red'])).toBe(false)
  })

  test('a group that cannot be read is USAGE', () => {
    expect(() => mayOverlap([['red:80']], ['red', 'blue'])).toThrow(expect.objectContaining({ code: 'USAGE' }))
  })
})
