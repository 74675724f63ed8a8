import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseAddress } from '../../src/base/ip.ts'
import { echoPacket } from '../../src/connection/echo.ts'
import { beginLiveness, judge, lookMs } from '../../src/connection/liveness.ts'

/** Looks once per text: `x` = something came through. Gives what each look said. */
function look(pattern: string, rttMs: number | undefined = 1, handshakeAgeMs = 0): string[] {
  let path = beginLiveness(0)
  let [nowMs, receivedBytes] = [0, 0]
  return [...pattern].map((sign) => {
    if (sign === 'x') receivedBytes += 28
    const { next, change, echoes, delayMs } = judge(path, { nowMs, receivedBytes, rttMs, handshakeAgeMs })
    path = next
    nowMs += delayMs
    return change === 'none' ? String(echoes) : change
  })
}

describe('judge', () => {
  test.each([
    ['a path with traffic is not asked', 'xxxx', ['0', '0', '0', '0']],
    ['an idle path is asked every other look', 'x.x.x', ['0', '1', '0', '1', '0']],
    [
      'silence is asked more often, then it is a death, and one echo a look waits for life',
      'x......',
      ['0', '1', '2', '3', 'lost', '1', '1'],
    ],
    ['one that comes back is found', 'x....x.', ['0', '1', '2', '3', 'lost', 'found', '1']],
    ['an endpoint that never answered is not dead', '......', ['1', '2', '3', '3', '3', '3']],
  ])('%s', (_, pattern, said) => {
    expect(look(pattern)).toEqual(said)
  })

  test('a death is noticed within 1.5 s of the last packet', () => {
    const looks = look('x.........').indexOf('lost')
    expect(looks * lookMs).toBeLessThanOrEqual(1_500)
  })

  test('a slow path gets three round trips', () => {
    const looks = look(`x${'.'.repeat(20)}`, 1_000).indexOf('lost')
    expect(looks * lookMs).toBeGreaterThan(3_000)
  })

  test('a session that is older than any may be is dead, whether it ever answered or not', () => {
    expect(look('.', 1, 196_000)).toEqual(['lost'])
  })

  test('an endpoint that does not answer is asked seldom after a while', () => {
    const path = { ...beginLiveness(0), silentLooks: 100 }
    const { echoes, delayMs } = judge(path, { nowMs: 0, receivedBytes: 0, rttMs: 1, handshakeAgeMs: 1 })
    expect([echoes, delayMs]).toEqual([1, 5_000])
  })

  test('lost and found take turns, lost never without a sign of life before', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom('x', '.'), { maxLength: 60 }), (signs) => {
        const changes = look(signs.join('')).filter((said) => said === 'lost' || said === 'found')
        expect(changes).toEqual(changes.map((_, index) => (index % 2 === 0 ? 'lost' : 'found')))
        if (changes.length > 0) expect(signs).toContain('x')
      }),
    )
  })
})

describe('echoPacket', () => {
  test('is a valid IPv4 packet with a valid ICMP echo request', () => {
    const packet = echoPacket(parseAddress('10.64.0.1'), parseAddress('10.64.0.0'))
    expect([packet.length, packet[0], packet[9], packet[20]]).toEqual([28, 0x45, 1, 8])
    expect([sumOf(packet.subarray(0, 20)), sumOf(packet.subarray(20))]).toEqual([0xffff, 0xffff])
  })

  test('is a valid IPv6 packet whose checksum covers the addresses', () => {
    const packet = echoPacket(parseAddress('fd00::1'), parseAddress('fd00::2'))
    const pseudoHeader = Buffer.concat([packet.subarray(8, 40), Uint8Array.of(0, 0, 0, 8, 0, 0, 0, 58)])
    expect([packet.length, packet[6], packet[40]]).toEqual([48, 58, 128])
    expect(sumOf(Buffer.concat([pseudoHeader, packet.subarray(40)]))).toBe(0xffff)
  })
})

function sumOf(bytes: Uint8Array): number {
  let sum = 0
  for (let i = 0; i < bytes.length; i += 2) sum += ((bytes[i] ?? 0) << 8) + (bytes[i + 1] ?? 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16)
  return sum
}
