import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { formatJoinString, parseJoinString } from '../../src/identity/join-string.ts'

const pin = `sha256-${'Ab_-'.repeat(10)}xyz`
const rest = `/?td=a.example&pin=${pin}`

describe('join string', () => {
  test.each([
    [`nsm://server.example:5001${rest}`, 'server.example', 5001],
    [`nsm://192.0.2.7:1${rest}`, '192.0.2.7', 1],
    [`nsm://[fd00::1]:65535${rest}`, 'fd00::1', 65_535],
    [`nsm://localhost:5001${rest}`, 'localhost', 5001],
  ])('%s is read and written unchanged', (text, address, port) => {
    const join = parseJoinString(text)
    expect(join).toEqual({ address, port, trustDomain: 'a.example', pin })
    expect(formatJoinString(join)).toBe(text)
  })

  test('carries a token, takes its parameters in any order and blanks around it', () => {
    const join = parseJoinString(`  nsm://h:1/?jt=abc_-9&pin=${pin}&td=a.example\n`)
    expect(join).toEqual({ address: 'h', port: 1, trustDomain: 'a.example', pin, token: 'abc_-9' })
    expect(formatJoinString(join)).toBe(`nsm://h:1${rest}&jt=abc_-9`)
  })

  test('survives formatting and parsing', () => {
    const join = fc.record({
      address: fc.oneof(fc.ipV4(), fc.domain(), fc.constantFrom('::1', 'fd00::7', '2001:db8::a:b')),
      port: fc.integer({ min: 1, max: 65_535 }),
      trustDomain: fc.stringMatching(/^[a-z0-9._-]{1,40}$/),
      pin: fc.stringMatching(/^sha256-[A-Za-z0-9_-]{43}$/),
      token: fc.stringMatching(/^[A-Za-z0-9_-]{1,60}$/),
    })
    fc.assert(
      fc.property(join, (value) => {
        expect(parseJoinString(formatJoinString(value))).toEqual(value)
      }),
    )
  })

  test.each([
    ['no port', `nsm://host${rest}`, 'host:port', 6],
    ['no host', `nsm://:5001${rest}`, 'not a host name', 6],
    ['an IPv6 address without brackets', `nsm://fd00::1:5001${rest}`, 'brackets', 6],
    ['a zone', `nsm://[fe80::1%eth0]:5001${rest}`, 'not a host name', 6],
    ['a name in brackets', `nsm://[host]:5001${rest}`, 'not a host name', 6],
    ['a user', `nsm://me@host:5001${rest}`, 'not a host name', 6],
    ['port 0', `nsm://host:0${rest}`, 'port', 11],
    ['port 65536', `nsm://host:65536${rest}`, 'port', 11],
    ['a port with letters', `nsm://host:5x${rest}`, 'port', 11],
    ['a path', `nsm://host:5001/x?td=a&pin=${pin}`, '"?"', 16],
    ['no trust domain', `nsm://host:5001/?pin=${pin}`, 'td', 21 + pin.length],
    ['no pin', 'nsm://host:5001/?td=a.example', 'pin', 29],
    ['an upper-case trust domain', `nsm://host:5001/?td=A&pin=${pin}`, 'td is not', 20],
    ['a short pin', 'nsm://host:5001/?td=a&pin=sha256-abc', 'pin is not', 26],
    ['another hash', `nsm://host:5001/?td=a&pin=sha512-${'a'.repeat(43)}`, 'pin is not', 26],
    ['an unknown parameter', `nsm://host:5001/?td=a&x=1&pin=${pin}`, 'unknown parameter', 22],
    ['a name of Object', `nsm://host:5001/?td=a&constructor=1&pin=${pin}`, 'unknown parameter', 22],
    ['a parameter twice', `nsm://host:5001/?td=a&td=b&pin=${pin}`, 'twice', 22],
  ])('with %s is refused with a caret under the fault', (_name, text, what, at) => {
    const { code, message } = failure(text)
    expect(code).toBe('USAGE')
    const [sentence, shown, caret] = message.split('\n')
    expect(sentence).toContain(what)
    expect(shown).toBe(`  ${text}`)
    expect(caret).toBe(`  ${' '.repeat(at)}^`)
  })

  test.each([
    ['the token alone', 'SECRETSECRETSECRET'],
    ['a token with a bad character', `nsm://h:1${rest}&jt=SECRET!SECRET`],
    ['a fault after the token', `nsm://h:1/?td=a&jt=SECRETSECRET&pin=x`],
    ['a fault before the token', `nsm://h:0${rest}&jt=SECRETSECRET`],
    ['another scheme', `http://h:1${rest}&jt=SECRETSECRET`],
  ])('with %s is refused without showing the token', (_name, text) => {
    expect(failure(text).message).not.toContain('SECRET')
  })

  test('of any text throws nothing but USAGE', () => {
    const text = fc.oneof(
      fc.string(),
      fc.string().map((tail) => `nsm://h:1/?${tail}`),
      fc.string().map((tail) => `nsm://${tail}`),
    )
    fc.assert(
      fc.property(text, (value) => {
        expect(failure(value).code).toBe('USAGE')
      }),
    )
  })
})

function failure(text: string): NsmError {
  try {
    parseJoinString(text)
  } catch (error) {
    if (error instanceof NsmError) return error
    throw error
  }
  return new NsmError('BUG', `${text} was accepted`, '')
}
