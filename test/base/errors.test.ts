import { describe, expect, test } from 'vitest'
import { errorFromData, errorTable, NsmError, toNsmError } from '../../src/base/errors.ts'

describe('NsmError', () => {
  test('NsmError ends a command with the exit code of its table row', () => {
    for (const [code, { exit }] of Object.entries(errorTable)) {
      expect(errorFromData({ code: code as keyof typeof errorTable, message: 'm', next: 'n' }).exitCode).toBe(exit)
    }
    expect(Object.values(errorTable).map(({ exit }) => exit)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
  })

  test('NsmError survives the way to another process', () => {
    const error = new NsmError('CONFLICT', 'a and b', 'do this', { cause: new NsmError('BUG', 'inner', 'x') })
    expect(errorFromData(JSON.parse(JSON.stringify(error.toData())))).toMatchObject({
      code: 'CONFLICT',
      message: 'a and b',
      next: 'do this',
    })
  })

  test('an unknown code or a foreign error becomes BUG', () => {
    expect(errorFromData(JSON.parse('{"code":"toString","message":"m","next":"n"}')).code).toBe('BUG')
    expect(toNsmError(new TypeError('t')).code).toBe('BUG')
    expect(toNsmError('text').message).toContain('text')
    const own = new NsmError('LOST', 'm', 'n')
    expect(toNsmError(own)).toBe(own)
  })
})
