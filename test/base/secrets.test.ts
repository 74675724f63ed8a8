import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { hasSecret } from '../../src/base/secrets.ts'

describe('a compact JWT', () => {
  test('is found in any text exactly where it is spelt out', () => {
    const part = fc.constantFrom('eyJ', 'e', 'J', 'a-b_9', '.', ' ', '"', 'eyJhbGciOi')
    fc.assert(
      fc.property(fc.array(part, { maxLength: 14 }), (parts) => {
        const text = parts.join('')
        expect(hasSecret(text)).toBe(/eyJ[\w-]+\.[\w-]+\./.test(text))
      }),
      { numRuns: 2_000 },
    )
  })

  test.each([
    ['a word', 'eyJ'],
    ['words', 'eyJ.'],
    ['headers', '-----BEGIN '],
  ])('is looked for in a megabyte that is %s of a peer, and whoever waits notices nothing', (_what, word) => {
    expect(hasSecret(word.repeat(300_000))).toBe(false)
  })
})
