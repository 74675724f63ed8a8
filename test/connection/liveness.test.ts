import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseAddress } from '../../src/base/ip.ts'
import { beginLiveness, judge, type Pace, paceOf, usualPace } from '../../src/connection/liveness.ts'
import { buildEchoRequest } from '../../src/tunnel/ip-packet.ts'

/** Looks once per text: `x` = something came through. Gives what each look said. */
function look(pattern: string, rttMs: number | undefined = 1, handshakeAgeMs = 0): string[] {
  let path = beginLiveness(0)
  let [nowMs, heard] = [0, 0]
  return [...pattern].map((sign) => {
    if (sign === 'x') heard += 28
    const { next, change, echoes, delayMs } = judge(path, { nowMs, heard, rttMs, handshakeAgeMs }, usualPace)
    path = next
    nowMs += delayMs
    return change === 'none' ? String(echoes) : change
  })
}

/** A path where each echo request and each answer is lost at some rate; gives how often it was called dead in `hours`. */
function falseAlarms(path: {
  readonly rttMs: number
  readonly lost: number
  readonly hours: number
  readonly pace: Pace
}) {
  let [random, received, deaths] = [1, 0, 0]
  const isLost = () => {
    random = (random * 48_271) % 2_147_483_647
    return random / 2_147_483_647 < path.lost
  }
  const due: number[] = []
  let liveness = beginLiveness(0)
  for (let nowMs = 0; nowMs < path.hours * 3_600_000; ) {
    while ((due[0] ?? nowMs) < nowMs) received += 28 * Number(due.shift() !== undefined)
    const found = { nowMs, heard: received, rttMs: path.rttMs, handshakeAgeMs: 0 }
    const { next, change, echoes, delayMs } = judge(liveness, found, path.pace)
    if (change === 'lost') deaths += 1
    for (let i = 0; i < echoes; i++) if (!isLost() && !isLost()) due.push(nowMs + path.rttMs)
    liveness = next
    nowMs += delayMs
  }
  return deaths
}

describe('judge', () => {
  test.each([
    ['a path with traffic is not asked', 'xxxx', ['0', '0', '0', '0']],
    ['an idle path is asked every other look', 'x.x.x', ['0', '1', '0', '1', '0']],
    [
      'silence is asked more often, then it is a death, and one echo a look waits for life',
      'x.......',
      ['0', '1', '2', '3', '3', 'lost', '1', '1'],
    ],
    ['one that comes back is found', 'x.....x.', ['0', '1', '2', '3', '3', 'lost', 'found', '1']],
    ['an endpoint that never answered is not dead', '......', ['1', '2', '3', '3', '3', '3']],
  ])('%s', (_, pattern, said) => {
    expect(look(pattern)).toEqual(said)
  })

  test('a death is noticed within 1.05 s of the last packet, whatever the timers are late by', () => {
    expect(look('x.........').indexOf('lost') * (usualPace.lookMs + 10)).toBeLessThanOrEqual(1_050)
  })

  test('a slow path gets three round trips', () => {
    const looks = look(`x${'.'.repeat(20)}`, 1_000).indexOf('lost')
    expect(looks * usualPace.lookMs).toBeGreaterThan(3_000)
  })

  test.each([
    ['200 ms and 5 % loss', { rttMs: 200, lost: 0.05 }],
    ['600 ms by satellite and 2 % loss', { rttMs: 600, lost: 0.02 }],
    ['20 ms and 10 % loss', { rttMs: 20, lost: 0.1 }],
  ])('a path with %s is not called dead in eight hours', (_, path) => {
    expect(falseAlarms({ ...path, hours: 8, pace: usualPace })).toBe(0)
  })

  test('the model of a lossy path would show a judgement that is too quick', () => {
    expect(falseAlarms({ rttMs: 20, lost: 0.1, hours: 8, pace: { lookMs: 100, silenceMs: 100 } })).toBeGreaterThan(0)
  })

  test('a machine that did not look for seconds has heard no silence', () => {
    const heard = { ...beginLiveness(28), answers: true, lookedAtMs: 0 }
    const asked = judge(heard, { nowMs: 200, heard: 28, rttMs: 1, handshakeAgeMs: 0 }, usualPace)
    const late = judge(asked.next, { nowMs: 9_000, heard: 28, rttMs: 1, handshakeAgeMs: 0 }, usualPace)
    expect([asked.change, late.change]).toEqual(['none', 'none'])
    const answered = judge(late.next, { nowMs: 9_200, heard: 56, rttMs: 1, handshakeAgeMs: 0 }, usualPace)
    expect(answered.next.silentMs).toBe(0)
  })

  test('a session that is older than any may be at two looks is dead where nothing ever answered', () => {
    expect(look('..', 1, 196_000)).toEqual(['1', 'lost'])
  })

  test('a machine that slept has time to renew a session that is older than any may be', () => {
    expect(look('x...', 1, 8 * 3_600_000)).toEqual(look('x...'))
    const deaf = { ...beginLiveness(0), silentLooks: 100 }
    const woken = judge(deaf, { nowMs: 0, heard: 0, rttMs: 1, handshakeAgeMs: 8 * 3_600_000 }, usualPace)
    const renewed = judge(woken.next, { nowMs: 5_000, heard: 0, rttMs: 1, handshakeAgeMs: 4_900 }, usualPace)
    expect([woken.change, renewed.change]).toEqual(['none', 'none'])
  })

  test('an endpoint that does not answer is asked seldom after a while', () => {
    const path = { ...beginLiveness(0), silentLooks: 100 }
    const { echoes, delayMs } = judge(path, { nowMs: 0, heard: 0, rttMs: 1, handshakeAgeMs: 1 }, usualPace)
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

describe('paceOf', () => {
  test.each([
    ['nothing is ours', {}, usualPace],
    ["cmd-nsc's defaults are taken as they are", { livenessIntervalMs: 200, livenessTimeoutMs: 1_000 }, [200, 1_000]],
    ['a timeout below two looks is raised', { livenessIntervalMs: 1_200, livenessTimeoutMs: 1_000 }, [1_200, 2_400]],
    ['an interval of nothing is no busy loop', { livenessIntervalMs: 0, livenessTimeoutMs: 0 }, [50, 100]],
  ])('%s', (_, wanted, expected) => {
    const [lookMs, silenceMs] = Array.isArray(expected) ? expected : [expected.lookMs, expected.silenceMs]
    expect(paceOf(wanted)).toEqual({ lookMs, silenceMs })
  })
})

describe('the request that asks for a sign of life', () => {
  const id = [0x6e, 0x73, 0, 1]

  test('is a valid IPv4 packet with a valid ICMP echo request', () => {
    const packet = buildEchoRequest({ source: parseAddress('10.64.0.1'), destination: parseAddress('10.64.0.0') }, id)
    expect([packet.length, packet[0], packet[9], packet[20]]).toEqual([28, 0x45, 1, 8])
    expect([sumOf(packet.subarray(0, 20)), sumOf(packet.subarray(20))]).toEqual([0xffff, 0xffff])
  })

  test('is a valid IPv6 packet whose checksum covers the addresses', () => {
    const packet = buildEchoRequest({ source: parseAddress('fd00::1'), destination: parseAddress('fd00::2') }, id)
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
