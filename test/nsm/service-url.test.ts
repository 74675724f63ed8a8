import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { parseServiceList, parseServiceUrl } from '../../src/nsm/service-url.ts'

describe('parseServiceUrl', () => {
  test.each([
    ['kernel://my-service', { service: 'my-service', labels: {} }],
    ['my-service', { service: 'my-service', labels: {} }],
    ['KERNEL://My-Service', { service: 'My-Service', labels: {} }],
    ['kernel://svc/nsm-1', { service: 'svc', interfaceName: 'nsm-1', labels: {} }],
    ['kernel://svc/', { service: 'svc', labels: {} }],
    ['svc@cluster.example', { service: 'svc', domain: 'cluster.example', labels: {} }],
    [
      'kernel://svc@a.b/if0?x=1&y=a+b%2C',
      { service: 'svc', domain: 'a.b', interfaceName: 'if0', labels: { x: '1', y: 'a b,' } },
    ],
    ['svc?x=1&x=2', { service: 'svc', labels: { x: '1,2' } }],
    ['svc?email=a@b.example&path=/x', { service: 'svc', labels: { email: 'a@b.example', path: '/x' } }],
    ['svc?', { service: 'svc', labels: {} }],
  ])('reads %s', (text, expected) => {
    expect(parseServiceUrl(text)).toEqual(expected)
  })

  test.each([
    ['memif://svc', 0, 'the mechanism "memif" is not supported'],
    ['kernel://', 9, 'the service name is empty'],
    ['kernel://svc:80/if', 12, 'a port or a password has no meaning here'],
    ['kernel://user:pw@svc', 13, 'a port or a password has no meaning here'],
    ['kernel://svc@a.b:5001', 16, 'a port has no meaning here'],
    ['svc@', 4, 'the domain is empty'],
    ['svc/abcdefghijklmnop', 19, 'an interface name has at most 15 bytes'],
    ['svc/a/b', 5, 'an interface name has letters'],
    ['svc/..', 4, 'this is not an interface name'],
    ['svc?x=%zz', 6, 'this escape is not valid'],
    ['svc?a=1;b=2', 7, '";" does not separate labels'],
    ['svc?=1', 4, 'a label is written key=value'],
    ['svc#top', 3, 'a fragment has no meaning here'],
    ['sv c', 2, 'a service name has letters'],
    ['', 0, 'the service name is empty'],
  ])('refuses %s with a caret at %i', (text, at, why) => {
    const error = thrown(() => parseServiceUrl(text))
    expect(error).toMatchObject({ code: 'USAGE', exitCode: 2 })
    const [sentence, shown, caret] = error.message.split('\n')
    expect(sentence).toContain(why)
    expect(shown).toBe(`  ${text}`)
    expect(caret?.indexOf('^')).toBe(at + 2)
  })

  test('throws USAGE or answers, whatever the text; the caret stays below the text', () => {
    const piece = fc.constantFrom(
      'kernel://',
      'svc',
      '@',
      '/',
      '?',
      '&',
      '=',
      '%',
      '%41',
      ';',
      ':',
      '#',
      ' ',
      '\n',
      'é',
      '..',
    )
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.array(piece).map((pieces) => pieces.join('')),
        ),
        (text) => {
          try {
            expect(parseServiceUrl(text).service).not.toBe('')
          } catch (error) {
            expect(error).toMatchObject({ code: 'USAGE' })
            const lines = error instanceof NsmError ? error.message.split('\n') : []
            expect(lines).toHaveLength(3)
            expect(lines[2]?.indexOf('^')).toBeLessThanOrEqual(text.length + 2)
          }
        },
      ),
    )
  })
})

describe('parseServiceList', () => {
  test('takes spaces and commas between services', () => {
    expect(parseServiceList(' a, kernel://b/if\n c ').map(({ service }) => service)).toEqual(['a', 'b', 'c'])
  })
  test('refuses a list without a service', () => {
    expect(() => parseServiceList(' , ')).toThrow('no network service is named')
  })
})

function thrown(action: () => unknown): NsmError {
  try {
    action()
  } catch (error) {
    if (error instanceof NsmError) return error
  }
  throw new NsmError('BUG', 'nothing was thrown', '')
}
