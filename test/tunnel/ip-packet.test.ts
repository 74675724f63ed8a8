import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseAddress } from '../../src/base/ip.ts'
import { buildEchoRequest, buildUdp, parseUdp } from '../../src/tunnel/ip-packet.ts'

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex')

const pair = fc.constantFrom(
  { source: parseAddress('10.64.0.1'), destination: parseAddress('10.64.0.0') },
  { source: parseAddress('fd00:64::1'), destination: parseAddress('fd00:64::') },
)

describe('IP packets', () => {
  test('what buildUdp writes parseUdp reads (property)', () => {
    const port = fc.nat(65_535)
    fc.assert(
      fc.property(
        pair,
        port,
        port,
        fc.uint8Array({ maxLength: 1_400 }),
        (addresses, sourcePort, destinationPort, payload) => {
          const datagram = { ...addresses, sourcePort, destinationPort, payload }
          expect(parseUdp(buildUdp(datagram))).toEqual(datagram)
        },
      ),
    )
  })

  test('any single flipped bit is noticed, but for fields that no checksum covers (property)', () => {
    fc.assert(
      fc.property(pair, fc.nat(), fc.nat(7), (addresses, at, bit) => {
        const packet = buildUdp({ ...addresses, sourcePort: 1, destinationPort: 2, payload: Uint8Array.of(1, 2, 3) })
        const index = at % packet.length
        const flipped = packet.map((byte, i) => (i === index ? byte ^ (1 << bit) : byte))
        const isUncovered = addresses.source.family === 6 && (index <= 3 || index === 7)
        if (!isUncovered) expect(parseUdp(flipped)).toBeUndefined()
      }),
      { numRuns: 1_000 },
    )
  })

  test('an IPv4 datagram without checksum counts, an IPv6 one does not', () => {
    const withoutChecksum = (source: string, destination: string, at: number) => {
      const packet = buildUdp({
        source: parseAddress(source),
        destination: parseAddress(destination),
        sourcePort: 1,
        destinationPort: 2,
        payload: Uint8Array.of(9),
      })
      packet.fill(0, at, at + 2)
      return parseUdp(packet)?.payload
    }
    expect(withoutChecksum('10.0.0.1', '10.0.0.2', 26)).toEqual(Uint8Array.of(9))
    expect(withoutChecksum('fd00::1', 'fd00::2', 46)).toBeUndefined()
  })

  test('echo requests are well formed', () => {
    const four = { source: parseAddress('10.64.0.0'), destination: parseAddress('10.64.0.1') }
    expect(hex(buildEchoRequest(four))).toBe('4500001c0000000040016661' + '0a400000' + '0a400001' + '0800f7ff00000000')
    const six = buildEchoRequest({ source: parseAddress('fd00::'), destination: parseAddress('fd00::1') })
    expect(hex(six.subarray(0, 8))).toBe('6000000000083a40')
    expect([six.length, six[40], six[41]]).toEqual([48, 128, 0])
  })

  test('no garbage makes parseUdp throw (property)', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => void parseUdp(bytes)))
  })
})
