import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createLog, type LogFields } from '../../src/base/log.ts'

const logged = (fields: LogFields, format: 'text' | 'json' = 'json') => {
  const lines: string[] = []
  createLog({ level: 'info', format, write: (line) => lines.push(line), wallMs: () => 0 }).info('something', fields)
  return lines.join('\n')
}

describe('Log', () => {
  test('Log writes the time, the level, the sentence and the fields', () => {
    expect(logged({ peer: 'a', rttMs: 3 })).toBe(
      '{"time":"1970-01-01T00:00:00.000Z","level":"info","sentence":"something","peer":"a","rttMs":3}',
    )
    expect(logged({ peer: 'a' }, 'text')).toBe('1970-01-01T00:00:00.000Z info something peer="a"')
  })

  test('Log leaves out what is below its level', () => {
    const lines: string[] = []
    const log = createLog({ level: 'warn', format: 'text', write: (line) => lines.push(line), wallMs: () => 0 })
    log.info('a')
    log.debug('b')
    log.warn('c')
    log.error('d')
    expect(lines.map((line) => line.split(' ')[1])).toEqual(['warn', 'error'])
  })

  test.each([
    ['joinToken', 'abc'],
    ['privateKey', 'abc'],
    ['Authorization', 'abc'],
    ['peer', 'eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln'],
    ['detail', '-----BEGIN PRIVATE KEY-----'],
    ['detail', 'nsm://192.0.2.1:5001/?td=a&pin=b&jt=hidden'],
    ['detail', `key ${Buffer.alloc(32, 7).toString('base64')} end`],
  ])('Log never shows a secret in field %s', (name, value) => {
    expect(logged({ [name]: value })).not.toContain(value)
  })

  test('Log keeps any text of a peer on one bounded line', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 2_000, unit: 'binary' }), (text) => {
        const line = logged({ peer: text }, 'text')
        expect(line).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u)
        expect(line.length).toBeLessThan(2_000)
      }),
    )
  })
})
