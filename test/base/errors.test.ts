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

  test.each([
    [{ code: 'ENOSPC' }, 'PERMISSION', 'no space is left: m'],
    [{ code: 'EDQUOT' }, 'PERMISSION', 'no space is left: m'],
    [{ code: 'EROFS', path: '/x' }, 'PERMISSION', 'nothing can be written there: m'],
    [{ code: 'ENOTDIR', path: '/x/y' }, 'PERMISSION', 'a file is where a folder has to be: m'],
    [{ code: 'EACCES', path: '/x' }, 'PERMISSION', 'a file may not be used: m'],
    [{ code: 'EPERM', path: '/x' }, 'PERMISSION', 'a file may not be used: m'],
    [{ code: 'EACCES', port: 53 }, 'BUG', 'unexpected failure: m'],
    [{ code: 'ERR_SQLITE_ERROR', errcode: 13 }, 'PERMISSION', 'no space is left: m'],
    [{ code: 'ERR_SQLITE_ERROR', errcode: 8 | (5 << 8) }, 'PERMISSION', 'nothing can be written there: m'],
    [{ code: 'ERR_SQLITE_ERROR', errcode: 11 }, 'BUG', 'unexpected failure: m'],
    [{ code: 'ERR_SQLITE_ERROR' }, 'BUG', 'unexpected failure: m'],
    [{ code: 'toString' }, 'BUG', 'unexpected failure: m'],
  ])("what the file system says as %j is the owner's to mend, or a defect: %s", (fields, code, message) => {
    const cause = Object.assign(new TypeError('m'), fields)
    expect(toNsmError(cause)).toMatchObject({ code, message, cause })
  })
})
