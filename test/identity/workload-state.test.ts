import { generateKeyPairSync } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { stateFromWorkload, type WorkloadUpdate } from '../../src/identity/workload-state.ts'
import { reasonOf, rootSigner } from './fixtures.ts'
import { updateOf, workloadAuthority } from './workload-fixtures.ts'

const { authority, svid } = workloadAuthority('a.example')
const other = workloadAuthority('b.example')
const nowMs = Date.now()

describe('an update of the Workload API', () => {
  test('gives the first SVID with the roots of its own and of every federated domain', () => {
    const update = {
      ...updateOf(svid('/one'), svid('/two')),
      federatedBundles: { 'spiffe://b.example': Buffer.concat([other.authority.rootDer, rootSigner().der]) },
    }
    const state = stateFromWorkload(update, {}, nowMs)
    expect(state?.svid.spiffeId).toBe('spiffe://a.example/one')
    expect([...(state?.bundles ?? [])].map(([domain, roots]) => [domain, roots.length])).toEqual([
      ['b.example', 2],
      ['a.example', 1],
    ])
    expect(Buffer.from(state?.bundles.get('a.example')?.[0] ?? []).equals(authority.rootDer)).toBe(true)
  })

  test('reads a chain of several certificates', () => {
    const one = svid('/one')
    const chain = Buffer.concat([one.chain, rootSigner().der])
    const lengthOf = (update: WorkloadUpdate) => stateFromWorkload(update, {}, nowMs)?.svid.chain.length ?? 0
    expect(lengthOf(updateOf({ ...one, chain }))).toBe(lengthOf(updateOf(one)) + 1)
  })

  test('keeps the own roots for the own domain, whatever a federated entry of that name says', () => {
    const update = {
      ...updateOf(svid('/one')),
      federatedBundles: { 'spiffe://a.example': Buffer.from(other.authority.rootDer) },
    }
    expect(stateFromWorkload(update, {}, nowMs)?.bundles.get('a.example')).toHaveLength(1)
    expect(stateFromWorkload(update, {}, nowMs)?.svid.spiffeId).toBe('spiffe://a.example/one')
  })

  test.each([
    ['a hint', { hint: 'internal' }, 'spiffe://a.example/two'],
    ['the first of two equal hints', { hint: 'twice' }, 'spiffe://a.example/three'],
    ['an ID', { spiffeId: 'spiffe://a.example/four' }, 'spiffe://a.example/four'],
    ['a hint and an ID', { hint: 'twice', spiffeId: 'spiffe://a.example/four' }, 'spiffe://a.example/four'],
    ['nothing', {}, 'spiffe://a.example/one'],
  ])('is chosen from by %s', (_what, choice, expected) => {
    const svids = [svid('/one'), svid('/two', 'internal'), svid('/three', 'twice'), svid('/four', 'twice')]
    expect(stateFromWorkload(updateOf(...svids), choice, nowMs)?.svid.spiffeId).toBe(expected)
  })

  test('says what there is when the choice fits nothing', () => {
    const choose = () => stateFromWorkload(updateOf(svid('/one', 'internal')), { hint: 'external' }, nowMs)
    expect(reasonOf(choose)).toBe('SVID_UNEXPECTED')
    expect(choose).toThrow(/no identity with hint external; it gave spiffe:\/\/a\.example\/one \(hint internal\)/)
  })

  test('without an SVID is a withdrawal', () => {
    expect(stateFromWorkload(updateOf(), {}, nowMs)).toBeUndefined()
  })

  test.each([
    ['another ID than its certificate', { spiffeId: 'spiffe://a.example/other' }, 'SVID_UNEXPECTED'],
    ['no ID', { spiffeId: '' }, 'ID_INVALID'],
    ['roots of another domain', { bundle: other.authority.rootDer }, 'SVID_UNTRUSTED'],
    ['no roots', { bundle: new Uint8Array() }, 'SVID_UNTRUSTED'],
    ['no certificate', { chain: new Uint8Array() }, 'SVID_NO_ID'],
    ['a cut certificate', { chain: svid('/one').chain.subarray(0, -1) }, 'DER_INVALID'],
    ['no key', { privateKey: new Uint8Array() }, 'KEY_MISMATCH'],
    ['the key of another', { privateKey: svid('/one').privateKey }, 'KEY_MISMATCH'],
    ['a key that NSM cannot use', { privateKey: rsaKey() }, 'KEY_MISMATCH'],
  ])('with %s cannot be used', (_what, change, reason) => {
    const update = updateOf({ ...svid('/one'), ...change })
    expect(reasonOf(() => stateFromWorkload(update, {}, nowMs))).toBe(reason)
  })

  test('of any bytes is an identity or an IDENTITY error', () => {
    const good = svid('/one')
    const bytes = fc.oneof(fc.uint8Array({ maxLength: 64 }), fc.constant(good.chain), fc.constant(good.bundle))
    const record = fc.record({
      spiffeId: fc.oneof(fc.string(), fc.constant(good.spiffeId)),
      chain: bytes,
      privateKey: fc.oneof(bytes, fc.constant(good.privateKey)),
      bundle: bytes,
      hint: fc.string(),
    })
    fc.assert(
      fc.property(fc.array(record, { maxLength: 2 }), fc.dictionary(fc.string(), bytes), (svids, federatedBundles) => {
        try {
          stateFromWorkload({ svids, federatedBundles }, {}, nowMs)
        } catch (error) {
          expect(error instanceof NsmError && error.code).toBe('IDENTITY')
        }
      }),
      { numRuns: 200 },
    )
  })
})

function rsaKey(): Uint8Array {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2_048 })
  return privateKey.export({ type: 'pkcs8', format: 'der' })
}
