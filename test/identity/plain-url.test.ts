import { expect, test } from 'vitest'
import { addressIn, plainUrl } from '../../src/identity/plain-url.ts'

test.each([
  ['https://a.example/x?y#z', 'https://a.example/x?y#z'],
  ['http://127.0.0.1:80', 'http://127.0.0.1/'],
  ['https://user@a.example', undefined],
  ['https://:word@a.example', undefined],
  ['a.example', undefined],
  ['', undefined],
])('plainUrl(%j) is %j', (text, expected) => {
  expect(plainUrl(text)?.href).toBe(expected)
})

test.each([
  ['https://a.example', undefined],
  ['https://169.254.169.254/x', '169.254.169.254'],
  ['https://2852039166', '169.254.169.254'],
  ['https://[fe80::1]:8443', 'fe80::1'],
])('the address in %s is %s', (text, expected) => {
  expect(addressIn(new URL(text))).toBe(expected)
})
