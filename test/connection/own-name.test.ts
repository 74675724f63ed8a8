import { describe, expect, test } from 'vitest'
import { checkOwnName } from '../../src/connection/own-name.ts'
import { FakeClock } from './fake-clock.ts'

/** A system that knows these names and no others. */
function world(names: Readonly<Record<string, string>>, nameOfAddress?: string) {
  const asked: string[] = []
  const lookUp = async (name: string, family: 4 | 6): Promise<readonly string[]> => {
    asked.push(`${name} ${family}`)
    const address = names[name]
    if (address === undefined) throw Object.assign(new Error(name), { code: 'ENOTFOUND' })
    return [address]
  }
  return { asked, clock: new FakeClock(), machine: { lookUp, lookUpAddress: async () => nameOfAddress ?? '' } }
}

const base = { name: 'Laptop', zones: ['blue.internal'], addresses: ['10.64.0.1'] }
const { signal } = new AbortController()

describe('the own name', () => {
  test.each([
    ['Alice’s Laptop', 'alice-s-laptop'],
    ['-a-', 'a'],
    ['a.b', 'a-b'],
    ['x'.repeat(80), 'x'.repeat(63)],
    [`${'x'.repeat(62)}-y`, 'x'.repeat(62)],
  ])('is looked for as one label: %s', async (name, label) => {
    const parts = world({ [`${label}.blue.internal.`]: '10.64.0.1' })
    expect(await checkOwnName({ ...base, ...parts, name }, signal)).toBe(`${label}.blue.internal`)
  })

  test('is looked for in all zones, and as an IPv6 name where there is no other address', async () => {
    const parts = world({ 'laptop.b.internal.': 'fd00::1' })
    const wanted = { ...base, ...parts, zones: ['a.internal', 'b.internal'], addresses: ['fd00::1'] }
    expect(await checkOwnName(wanted, signal)).toBe('laptop.b.internal')
    expect(parts.asked).toEqual(['laptop.a.internal. 6', 'laptop.b.internal. 6'])
  })

  test('is none that the address has outside the zones', async () => {
    const parts = world({}, 'router.home')
    const checking = checkOwnName({ ...base, ...parts }, signal)
    await parts.clock.advance(1_000)
    expect(await checking).toBeUndefined()
  })
})
