import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { chooseInterfaceName } from '../../src/connection/interface-name.ts'

describe('chooseInterfaceName', () => {
  test.each([
    [undefined, 'blue', [], 'nsm-blue'],
    [undefined, 'my-networkservice-1', [], 'nsm-my-networks'],
    [undefined, 'my-networkservice-1', ['nsm-my-networks'], 'nsm-my-networ-2'],
    [undefined, 'Blue_One', [], 'nsm-blue-one'],
    ['nsm0', 'blue', ['eth0'], 'nsm0'],
  ])('%j for %s with %j taken: %s', (wanted, service, taken, name) => {
    expect(chooseInterfaceName(wanted, service, taken)).toBe(name)
  })

  test('a wanted name that is taken is a CONFLICT, one that cannot be is a USAGE', () => {
    expect(codeOf(() => chooseInterfaceName('eth0', 'blue', ['eth0']))).toBe('CONFLICT')
    for (const name of ['', '.', '..', 'a/b', 'a b', 'sixteen-letters-']) {
      expect(codeOf(() => chooseInterfaceName(name, 'blue', []))).toBe('USAGE')
    }
  })

  test('made names are free, at most 15 bytes and of safe characters', () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), fc.nat(60), (service, count) => {
        const taken: string[] = []
        for (let i = 0; i < count; i++) taken.push(chooseInterfaceName(undefined, service, taken))
        expect(new Set(taken).size).toBe(count)
        for (const name of taken) expect(name).toMatch(/^[a-z0-9-]{1,15}$/)
      }),
    )
  })
})

function codeOf(action: () => unknown): string {
  try {
    action()
  } catch (error) {
    if (error instanceof NsmError) return error.code
  }
  return 'none'
}
