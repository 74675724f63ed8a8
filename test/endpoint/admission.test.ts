import { expect, test } from 'vitest'
import { decideMember } from '../../src/endpoint/admission.ts'
import { admissionOf } from '../support/policy.ts'

const idOf = (name: string) => `spiffe://test.internal/${name}`
const admission = admissionOf({
  grants: [
    { who: idOf('alice'), may: ['request'], services: ['blue'] },
    { who: idOf('nsmgr'), may: ['relay'], services: ['blue'] },
    { who: idOf('far'), may: ['relay'], services: ['red'] },
  ],
})

test.each([
  ['whoever is granted it', 'alice', undefined, true],
  ['nobody else', 'bob', undefined, false],
  ['a relay for whoever is granted it', 'nsmgr', 'alice', true],
  ['a relay for nobody else', 'nsmgr', 'bob', false],
  ['a relay itself without a grant of its own', 'nsmgr', undefined, false],
  ['no relay of another service', 'far', 'alice', false],
  ['nobody who says it asks for alice', 'bob', 'alice', false],
  ['a member whom another site has verified', 'alice', 'alice', true],
])('a policy lets in %s', (_who, name, origin, expected) => {
  const asking = { spiffeId: idOf(name), origin: origin && idOf(origin) }
  expect(decideMember(admission, 'blue', asking).isGranted).toBe(expected)
})
