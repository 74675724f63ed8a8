import { expect, test } from 'vitest'
import { createFixedSource } from '../../src/identity/fixed-source.ts'
import type { TrustBundles } from '../../src/identity/source.ts'
import { openAdmission } from '../../src/nsm/admission.ts'
import { withoutLeftDomains } from '../../src/nsm/left-domains.ts'
import { TestMesh } from './mesh.ts'

const member = 'spiffe://globex.example/member/7'

function scene() {
  const [acme, globex] = [new TestMesh('acme.example'), new TestMesh('globex.example')]
  const { svid } = acme.issue('/server')
  const both: TrustBundles = new Map([...acme.authority.bundles, ...globex.authority.bundles])
  const source = createFixedSource({ svid, bundles: both })
  const admission = withoutLeftDomains(openAdmission({}), source)
  let told = 0
  const ignore = admission.onChange(() => told++)
  const set = (bundles: TrustBundles) => source.set({ svid, bundles })
  const may = (id: string) => [
    admission.decide({ id, action: 'request', service: 'x' }).isGranted,
    admission.isAdmitted(id),
    !admission.isExcluded(id),
  ]
  return { both, own: acme.authority.bundles, set, may, admission, ignore, told: () => told }
}

test('a domain whose bundle is gone may do nothing, and may again when it is back', () => {
  const { both, own, set, may, admission, told } = scene()
  expect(may(member)).toEqual([true, true, true])
  set(own)
  expect([may(member), told()]).toEqual([[false, false, false], 1])
  expect(() => admission.check({ id: member, action: 'request', service: 'x' })).toThrow(
    expect.objectContaining({ code: 'REFUSED' }),
  )
  expect(may('spiffe://acme.example/member/1')).toEqual([true, true, true])
  set(both)
  expect([may(member), told()]).toEqual([[true, true, true], 1])
})

test('a bundle without a root is a bundle that is gone', () => {
  const { both, set, may } = scene()
  set(new Map([...both, ['globex.example', []]]))
  expect(may(member)).toEqual([false, false, false])
})

test('a domain that was never believed, and what is no SPIFFE ID, are left to the admission', () => {
  const { own, set, may } = scene()
  set(own)
  expect(may('spiffe://third.example/x')).toEqual([true, true, true])
  expect(may('nonsense')).toEqual([true, true, true])
})

test('a change of roots within a domain tells nobody, and who listens no longer hears nothing', () => {
  const { both, own, set, told, ignore } = scene()
  set(new Map([...both, ...new TestMesh('globex.example').authority.bundles]))
  expect(told()).toBe(0)
  ignore()
  set(own)
  expect(told()).toBe(0)
})
