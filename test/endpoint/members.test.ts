import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Member, Members, toLabel } from '../../src/endpoint/members.ts'

let serial = 0
const member = (wish: Partial<Member>): Member => {
  serial++
  return {
    spiffeId: 'spiffe://example.org/alice',
    connectionId: `c${serial}`,
    segmentId: `s${serial}`,
    publicKey: `k${serial}`,
    addresses: [`10.64.0.${serial}/32`],
    label: undefined,
    expiresMs: 0,
    underlay: undefined,
    ...wish,
  }
}

describe('toLabel', () => {
  test.each([
    ['web', 'web'],
    ['Web.Example', 'web'],
    ['--a__b--', 'a-b'],
    ['a--b', 'a--b'],
    ['7f3a', '7f3a'],
    ['münchen', 'm-nchen'],
    ['a'.repeat(70), 'a'.repeat(63)],
    [`${'a'.repeat(62)}_b`, 'a'.repeat(62)],
    ['', undefined],
    ['...', undefined],
    ['日本', undefined],
  ])('makes %j to %j', (text, label) => expect(toLabel(text)).toBe(label))

  test('makes a valid host name label or nothing out of any text (property)', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 200 }), (text) => {
        const label = toLabel(text)
        if (label !== undefined) expect(label).toMatch(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/)
        if (label !== undefined) expect(toLabel(label)).toBe(label)
      }),
    )
  })
})

describe('Members', () => {
  test('a name belongs to the first live identity; others get a number', () => {
    const members = new Members(['gateway'])
    const label = (wanted: string, spiffeId: string) => members.labelFor(wanted, spiffeId, undefined)
    const first = member({ label: label('web', 'a'), spiffeId: 'a' })
    members.put(first)
    const second = member({ label: label('WEB', 'b'), spiffeId: 'b' })
    members.put(second)
    expect([first.label, second.label, label('web', 'c'), label('web', 'a')]).toEqual(['web', 'web-2', 'web-3', 'web'])
    members.remove(first)
    expect(members.labelFor('web', 'b', second)).toBe('web-2')
    expect(members.labelFor('db', 'b', second)).toBe('db')
    expect(label('web', 'c')).toBe('web')
    expect([label('gateway', 'a'), label('', 'a')]).toEqual(['gateway-2', undefined])
  })

  test('a long name stays within 63 bytes with its number', () => {
    const members = new Members()
    const long = 'a'.repeat(63)
    members.put(member({ label: long, spiffeId: 'a' }))
    expect(members.labelFor(long, 'b', undefined)).toBe(`${'a'.repeat(61)}-2`)
  })

  test('one identity may have its name on several connections, which all count', () => {
    const members = new Members()
    const one = member({ label: 'web', addresses: ['10.64.0.1/32', 'fd00::1/128'] })
    const two = member({ label: 'web', addresses: ['10.64.0.2/32'] })
    members.put(one)
    members.put(two)
    expect(members.addressesOf('web')).toEqual(['10.64.0.1', 'fd00::1', '10.64.0.2'])
    expect(members.labelOf('fd00::1')).toBe('web')
    members.remove(one)
    members.remove(two)
    expect([members.addressesOf('web'), members.labelOf('fd00::1')]).toEqual([undefined, undefined])
  })

  test('put replaces the same connection of the same identity in every index', () => {
    const members = new Members()
    const before = member({ connectionId: 'c', label: 'old' })
    const after = member({ connectionId: 'c', label: 'new' })
    members.put(before)
    members.put(after)
    expect(members.all()).toEqual([after])
    expect([members.bySegment(before.segmentId), members.byKey(before.publicKey)]).toEqual([undefined, undefined])
    expect([members.addressesOf('old'), members.find(after.spiffeId, 'c')]).toEqual([undefined, after])
    members.remove(before)
    expect([members.all(), members.countOf(after.spiffeId)]).toEqual([[after], 1])
    members.remove(after)
    expect(members.countOf(after.spiffeId)).toBe(0)
  })

  test('countOf tells the workloads of a relay apart, and not an identity that names itself', () => {
    const members = new Members()
    const put = (connectionId: string, origin?: string) => members.put({ ...member({ connectionId }), origin })
    const { spiffeId } = member({})
    put('a', 'spiffe://example.org/pod-1')
    put('b', 'spiffe://example.org/pod-2')
    put('c')
    put('d', spiffeId)
    const countOf = (origin?: string) => members.countOf(spiffeId, origin)
    expect([countOf('spiffe://example.org/pod-1'), countOf('spiffe://example.org/pod-2'), countOf()]).toEqual([1, 1, 2])
    put('a')
    expect([countOf('spiffe://example.org/pod-1'), countOf()]).toEqual([0, 3])
  })
})
