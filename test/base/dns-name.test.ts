import { expect, test } from 'vitest'
import { isDnsName } from '../../src/base/dns-name.ts'

test.each([
  ['blue.nsm.internal', true],
  ['Blue.Example', true],
  ['_dns-sd._udp.b-1.example', true],
  ['a', true],
  [`${'a'.repeat(63)}.example`, true],
  [`${'a'.repeat(64)}.example`, false],
  ['blue.example.', false],
  ['a..example', false],
  ['-a.example', false],
  ['a-.example', false],
  ['bücher.example', false],
  ['a.example\n', false],
  ['', false],
])('isDnsName(%j) is %s', (name, expected) => {
  expect(isDnsName(name)).toBe(expected)
})
