import { create } from '@bufbuild/protobuf'
import { describe, expect, test } from 'vitest'
import {
  type Connection,
  MechanismSchema,
  MonitorScopeSelectorSchema,
  PathSegmentSchema,
} from '../../src/nsm/generated/connection_pb.js'
import { DNSContextSchema, PolicyRouteSchema } from '../../src/nsm/generated/connectioncontext_pb.js'
import {
  checkConnectionLimits,
  checkLabelCount,
  checkRequestLimits,
  checkSelectorLimits,
} from '../../src/nsm/limits.ts'
import { firstRequest } from './mesh.ts'

const times = <T>(count: number, make: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i))
const prefix = (i: number) => `10.${i >> 8}.${i & 255}.0/24`
const connection = (change: (connection: Connection) => unknown): Connection => {
  const { connection: made } = firstRequest()
  if (!made) expect.fail()
  change(made)
  return made
}
const segments = (count: number, token = '') =>
  connection(({ path }) => path?.pathSegments.splice(0, 1, ...times(count, () => create(PathSegmentSchema, { token }))))
const labels = (count: number) =>
  connection((one) => Object.assign(one, { labels: Object.fromEntries(times(count, (i) => [`l${i}`, ''])) }))
const addresses = (own: number, excluded: number) =>
  connection(({ context }) => {
    context?.ipContext?.srcIpAddrs.push(...times(own, prefix))
    context?.ipContext?.excludedPrefixes.push(...times(excluded, prefix))
  })

const dns = (configs: number, domains: number) =>
  connection(({ context }) => {
    if (!context) expect.fail()
    context.dnsContext = create(DNSContextSchema, {
      configs: times(configs, () => ({ searchDomains: times(domains, (i) => `d${i}`) })),
    })
  })
const keyed = (count: number) => Object.fromEntries(times(count, (i) => [`k${i}`, '']))
const parameters = (count: number) =>
  connection((one) => Object.assign(one, { mechanism: create(MechanismSchema, { parameters: keyed(count) }) }))
const extra = (count: number) =>
  connection(({ context }) => void Object.assign(context?.extraContext ?? expect.fail(), keyed(count)))
const policy = (count: number) =>
  connection(({ context }) =>
    context?.ipContext?.policies.push(
      create(PolicyRouteSchema, { routes: times(count, (i) => ({ prefix: prefix(i) })) }),
    ),
  )

describe('checkConnectionLimits', () => {
  test.each([
    ['64 segments', segments(64)],
    ['a token of 16 KiB', segments(1, 'x'.repeat(16 * 1024))],
    ['128 labels', labels(128)],
    ['1,024 prefixes of two kinds', addresses(24, 1_000)],
    ['1,024 names and servers of DNS', dns(2, 511)],
    ['128 parameters', parameters(128)],
    ['128 entries of its own', extra(128)],
  ])('lets pass what has %s', (_what, wanted) => {
    expect(() => checkConnectionLimits(wanted)).not.toThrow()
  })

  test.each([
    ['65 segments', segments(65), '65 path segments, at most 64'],
    ['a token of 16 KiB and one', segments(2, 'x'.repeat(16 * 1024 + 1)), 'characters of a token'],
    ['129 labels', labels(129), '129 labels, at most 128'],
    ['1,025 prefixes of two kinds', addresses(25, 1_000), '1025 prefixes, at most 1024'],
    ['a policy of 1,024 routes', policy(1_024), '1025 prefixes, at most 1024'],
    ['1,026 names and servers of DNS', dns(2, 512), '1026 DNS entries, at most 1024'],
    ['1,025 configurations of DNS that say nothing', dns(1_025, 0), '1025 DNS entries'],
    ['129 parameters', parameters(129), '129 parameters, at most 128'],
    ['129 entries of its own', extra(129), '129 parameters, at most 128'],
  ])('refuses what has %s, and names the limit', (_what, wanted, text) => {
    const refused = expect.objectContaining({ code: 'REFUSED', message: expect.stringContaining(text) })
    expect(() => checkConnectionLimits(wanted)).toThrow(refused)
  })
})

describe('checkRequestLimits', () => {
  const offering = (count: number) => ({
    ...firstRequest(),
    mechanismPreferences: times(count, () => create(MechanismSchema, { type: 'WIREGUARD' })),
  })

  test('counts the mechanisms, and what is in the connection', () => {
    expect(() => checkRequestLimits(offering(16))).not.toThrow()
    const many = create(MechanismSchema, { parameters: keyed(129) })
    expect(() => checkRequestLimits({ ...offering(1), mechanismPreferences: [many] })).toThrow('129 parameters')
    expect(() => checkRequestLimits(offering(17))).toThrow('17 mechanism preferences, at most 16')
    expect(() => checkRequestLimits({ ...offering(1), connection: labels(129) })).toThrow('129 labels')
  })
})

describe('checkSelectorLimits', () => {
  const selector = (segments: number, networkServices: number) =>
    create(MonitorScopeSelectorSchema, {
      pathSegments: times(segments, (i) => ({ id: `${i}` })),
      networkServices: times(networkServices, (i) => `s${i}`),
    })

  test('counts segments and services: a watch holds them for long', () => {
    expect(() => checkSelectorLimits(selector(64, 64))).not.toThrow()
    expect(() => checkSelectorLimits(selector(65, 1))).toThrow('65 path segments, at most 64')
    expect(() => checkSelectorLimits(selector(1, 65))).toThrow('65 network services, at most 64')
  })
})

describe('checkLabelCount', () => {
  test('is the same for entries of the registry', () => {
    expect(() => checkLabelCount(128)).not.toThrow()
    expect(() => checkLabelCount(129)).toThrow('129 labels')
  })
})
