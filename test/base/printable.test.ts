import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { printable, printableLines } from '../../src/base/printable.ts'

describe('printable', () => {
  test.each([
    ['a plain text, with ümläuts and 日本', 'a plain text, with ümläuts and 日本'],
    ['\u001b[31mred', '\\x1b[31mred'],
    ['one\ntwo\rthree', 'one\\x0atwo\\x0dthree'],
    ['\u009b2J', '\\x9b2J'],
    ['safe\u202egnp.exe', 'safe\\u{202e}gnp.exe'],
    ['a\u2028b', 'a\\u{2028}b'],
    ['\u200bhidden', '\\u{200b}hidden'],
    ['\u{e0041}', '\\u{e0041}'],
  ])('shows %j as %j', (text, shown) => expect(printable(text)).toBe(shown))

  test('leaves nothing behind that moves a cursor, ends a line or hides a character', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        expect(printable(text)).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u)
        expect(printable(printable(text))).toBe(printable(text))
      }),
    )
  })
})

test('printableLines keeps lines apart and makes each printable', () => {
  expect(printableLines('one\n  ^\n\u001b]0;x\u0007')).toBe('one\n  ^\n\\x1b]0;x\\x07')
})
