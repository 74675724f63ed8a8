import { afterEach, describe, expect, test } from 'vitest'
import { createFixedSource } from '../../src/identity/fixed-source.ts'
import { answersFor } from '../../src/nsm/interdomain-trust.ts'
import { TestMesh } from './mesh.ts'

const meshes: TestMesh[] = []
afterEach(async () => {
  for (const mesh of meshes.splice(0)) await mesh.close()
})
const meshOf = (trustDomain: string) => {
  const mesh = new TestMesh(trustDomain)
  meshes.push(mesh)
  return mesh
}

/** An identity of near.test that also believes the given trust domains. */
function believing(...trustDomains: readonly string[]) {
  const state = meshOf('near.test').issue('/laptop')
  const bundles = new Map(state.bundles)
  for (const name of trustDomains)
    for (const [domain, roots] of meshOf(name).issue('/x').bundles) bundles.set(domain, roots)
  return createFixedSource({ ...state, bundles })
}

describe('answersFor', () => {
  test('takes any believed identity for a domain that is no trust domain here', () => {
    const answers = answersFor('far.test', believing('spire.far'))
    expect(answers('spiffe://near.test/nsmgr-proxy')).toBe(true)
    expect(answers('spiffe://spire.far/nsmgr-proxy')).toBe(true)
  })

  test('takes the trust domain of that name alone when it is believed, whatever its case', () => {
    const answers = answersFor('Far.test', believing('far.test'))
    expect(answers('spiffe://far.test/server')).toBe(true)
    expect(answers('spiffe://near.test/member/7')).toBe(false)
  })

  test('never takes ourselves: that would be a loop', () => {
    expect(answersFor('far.test', believing())('spiffe://near.test/laptop')).toBe(false)
    expect(answersFor('near.test', believing())('spiffe://near.test/laptop')).toBe(false)
  })

  test('looks at the bundles of the moment, so that a new federation counts at once', () => {
    const [before, after] = [believing(), believing('far.test')]
    let source = before
    const answers = answersFor('far.test', { current: () => source.current() })
    expect(answers('spiffe://near.test/border')).toBe(true)
    source = after
    expect(answers('spiffe://near.test/border')).toBe(false)
  })
})
