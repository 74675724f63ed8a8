import { expect, test } from 'vitest'
import { isAdmitted } from '../../src/endpoint/admission.ts'

test.each([
  [undefined, 'spiffe://a.org/x', true],
  [[], 'spiffe://a.org/x', false],
  [['spiffe://a.org/x'], 'spiffe://a.org/x', true],
  [['spiffe://a.org/x'], 'spiffe://a.org/xy', false],
  [['spiffe://a.org/x'], 'spiffe://a.org/x/y', false],
  [['spiffe://a.org/*'], 'spiffe://a.org/x/y', true],
  [['spiffe://a.org/*'], 'spiffe://a.org.evil/x', false],
  [['spiffe://a.org/team/*'], 'spiffe://a.org/team', false],
  [['spiffe://b.org/*', 'spiffe://a.org/x'], 'spiffe://a.org/x', true],
])('the admission list %j lets %s in: %s', (admission, spiffeId, expected) => {
  expect(isAdmitted(admission, spiffeId)).toBe(expected)
})
