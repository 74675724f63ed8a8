import { describe, expect, test } from 'vitest'
import { parseAddress } from '../../src/base/ip.ts'
import { QueryRate, queriesPerSecondMax } from '../../src/endpoint/query-rate.ts'
import { buildUdp } from '../../src/tunnel/ip-packet.ts'

const packetFrom = (source: string, gateway: string) =>
  buildUdp({
    source: parseAddress(source),
    sourcePort: 40_000,
    destination: parseAddress(gateway),
    destinationPort: 53,
    payload: new Uint8Array(12),
  })

const asMany = (rate: QueryRate, packet: Uint8Array, at: { readonly count: number; readonly nowMs: number }) =>
  Array.from({ length: at.count }, () => rate.allows(packet, at.nowMs)).filter((allowed) => allowed).length

describe.each([
  ['IPv4', '10.64.0.2', '10.64.0.3', '10.64.0.0'],
  ['IPv6', 'fd00::2', 'fd00::3', 'fd00::'],
])('QueryRate over %s', (_family, first, second, gateway) => {
  test('stops one member at its limit and no other', () => {
    const rate = new QueryRate()
    const count = queriesPerSecondMax + 100
    expect(asMany(rate, packetFrom(first, gateway), { count, nowMs: 0 })).toBe(queriesPerSecondMax)
    expect(asMany(rate, packetFrom(second, gateway), { count: 3, nowMs: 0 })).toBe(3)
  })

  test('lets a member ask again in the next second', () => {
    const rate = new QueryRate()
    const count = queriesPerSecondMax + 1
    asMany(rate, packetFrom(first, gateway), { count, nowMs: 0 })
    expect(rate.allows(packetFrom(first, gateway), 999)).toBe(false)
    expect(rate.allows(packetFrom(first, gateway), 1_000)).toBe(true)
  })
})

test('QueryRate takes a packet that is none without failing', () => {
  expect(new QueryRate().allows(new Uint8Array(0), 0)).toBe(true)
})
