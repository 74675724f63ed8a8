import { describe, expect, test } from 'vitest'
import { NsmError } from '../../src/base/errors.ts'
import { findDomain, type NameService, type SrvRecord } from '../../src/nsm/interdomain-lookup.ts'

const { signal } = new AbortController()
const record = (port: number, change: Partial<SrvRecord> = {}): SrvRecord => ({
  ...{ target: 'node.far.test', port, priority: 1, weight: 1 },
  ...change,
})

/** Resolvers that know these records, and note what they were asked. */
function resolvers(
  srv: Readonly<Record<string, readonly SrvRecord[]>>,
  addresses: Readonly<Record<string, readonly string[]>>,
) {
  const asked: string[] = []
  const names: NameService = {
    async srv(name) {
      asked.push(`SRV ${name}`)
      return srv[name] ?? []
    },
    async addresses(name) {
      asked.push(`A ${name}`)
      return addresses[name] ?? []
    },
  }
  return { names, asked }
}

const registry = 'registry.nsm-system.far.test'
const proxy = 'nsmgr-proxy.nsm-system.far.test'

describe('findDomain', () => {
  test('asks for the plain names of registry and border manager: port by SRV, address of the same name', async () => {
    const { names, asked } = resolvers(
      { [registry]: [record(5_002)], [proxy]: [record(5_004)] },
      { [registry]: ['192.0.2.1', '192.0.2.9'], [proxy]: ['2001:db8::1'] },
    )
    expect(await findDomain('far.test', names, signal)).toEqual({
      registry: { address: '192.0.2.1', port: 5_002 },
      manager: { address: '2001:db8::1', port: 5_004 },
    })
    expect(asked.toSorted()).toEqual([`A ${proxy}`, `A ${registry}`, `SRV ${proxy}`, `SRV ${registry}`])
  })

  test('takes the address of the target when the plain name has none', async () => {
    const { names } = resolvers(
      { [registry]: [record(5_002)], [proxy]: [record(5_004)] },
      { 'node.far.test': ['192.0.2.7'] },
    )
    const { manager } = await findDomain('far.test', names, signal)
    expect(manager).toEqual({ address: '192.0.2.7', port: 5_004 })
  })

  test.each([
    ['the lowest priority', [record(1, { priority: 2 }), record(2, { priority: 1 })], 2],
    ['the highest weight of one priority', [record(1, { weight: 1 }), record(2, { weight: 5 })], 2],
  ])('takes the record of %s', async (_what, records, port) => {
    const { names } = resolvers({ [registry]: records, [proxy]: records }, { 'node.far.test': ['192.0.2.7'] })
    expect((await findDomain('far.test', names, signal)).registry.port).toBe(port)
  })

  test.each([
    ['//192.0.2.1:5002', { address: '192.0.2.1', port: 5_002 }],
    ['//[2001:db8::1]:5002', { address: '2001:db8::1', port: 5_002 }],
  ])('takes %s as both servers, without DNS', async (domain, target) => {
    const { names, asked } = resolvers({}, {})
    expect(await findDomain(domain, names, signal)).toEqual({ registry: target, manager: target })
    expect(asked).toEqual([])
  })

  test.each(['', 'a b', '//host:5002', '//192.0.2.1', '//192.0.2.1:0', '//192.0.2.1:99999', 'a..b', 'x'.repeat(240)])(
    'asks nobody for the domain %j',
    async (domain) => {
      const { names, asked } = resolvers({}, {})
      await expect(findDomain(domain, names, signal)).rejects.toMatchObject({ code: 'NOT_FOUND' })
      expect(asked).toEqual([])
    },
  )

  test('says which record is missing and what DNS needs', async () => {
    const { names } = resolvers({ [proxy]: [record(5_004)] }, { [proxy]: ['192.0.2.1'] })
    await expect(findDomain('far.test', names, signal)).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: `the domain "far.test" cannot be found: ${registry} has no SRV record`,
      next: expect.stringContaining('registry.nsm-system.DOMAIN'),
    })
  })

  test('says when a name has no address at all', async () => {
    const { names } = resolvers({ [registry]: [record(1)], [proxy]: [record(2)] }, { [proxy]: ['192.0.2.1'] })
    await expect(findDomain('far.test', names, signal)).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining(`${registry} has no address`),
    })
  })

  test('tells silence from ignorance', async () => {
    const silent = async () => {
      throw new NsmError('UNREACHABLE', 'no answer', 'wait')
    }
    const asked = findDomain('far.test', { srv: silent, addresses: silent }, signal)
    await expect(asked).rejects.toMatchObject({ code: 'UNREACHABLE' })
  })
})
