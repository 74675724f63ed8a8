import { expect, test } from 'vitest'
import { areSameBundles } from '../../src/identity/same-bundles.ts'

const [a, b] = [new Uint8Array([1, 2]), new Uint8Array([1, 3])]
const bundles = (...entries: readonly [string, readonly Uint8Array[]][]) => new Map(entries)

test.each([
  ['nothing and nothing', bundles(), bundles(), true],
  ['equal bytes in other arrays', bundles(['x', [a]]), bundles(['x', [Buffer.from(a)]]), true],
  ['domains in another order', bundles(['x', [a]], ['y', [b]]), bundles(['y', [b]], ['x', [a]]), true],
  ['other bytes', bundles(['x', [a]]), bundles(['x', [b]]), false],
  ['roots in another order', bundles(['x', [a, b]]), bundles(['x', [b, a]]), false],
  ['one root more', bundles(['x', [a]]), bundles(['x', [a, b]]), false],
  ['another domain', bundles(['x', [a]]), bundles(['y', [a]]), false],
  ['a domain without roots, and none', bundles(['x', []]), bundles(), false],
])('areSameBundles: %s', (_what, one, other, expected) => {
  expect([areSameBundles(one, other), areSameBundles(other, one)]).toEqual([expected, expected])
})
