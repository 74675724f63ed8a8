import { describe, expect, test } from 'vitest'
import { createFixedSource } from '../../src/identity/fixed-source.ts'
import { certificatesFromPem, certificatesToPem } from '../../src/identity/pem.ts'
import { atWallTime } from '../../src/identity/wall-timer.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { authorityOf, identityOf, reasonOf } from './fixtures.ts'

describe('fixed source', () => {
  test('gives what was set last and tells every listener that still listens', () => {
    const a = authorityOf('a.example')
    const [first, second, third] = [identityOf(a, '/1'), identityOf(a, '/2'), identityOf(a, '/3')]
    const source = createFixedSource(first)
    const heard: string[] = []
    const stop = source.onChange(({ svid }) => void heard.push(svid.spiffeId))
    source.set(second)
    stop()
    source.set(third)
    expect(source.current()).toBe(third)
    expect(heard).toEqual(['spiffe://a.example/2'])
  })

  test('refuses an SVID in the millisecond it expires, and serves its successor', async () => {
    const clock = createFakeClock()
    const a = authorityOf('a.example', clock)
    const source = createFixedSource(identityOf(a, '/x', clock, 10_000), clock)
    await clock.advance(9_999)
    expect(reasonOf(() => source.current())).toBe('nothing')
    await clock.advance(1)
    expect(reasonOf(() => source.current())).toBe('SVID_EXPIRED')
    source.set(identityOf(a, '/x', clock))
    expect(reasonOf(() => source.current())).toBe('nothing')
  })

  test('is silent after it is closed', async () => {
    const a = authorityOf('a.example')
    const source = createFixedSource(identityOf(a, '/1'))
    let heard = 0
    source.onChange(() => void heard++)
    await source.close()
    source.set(identityOf(a, '/2'))
    expect(heard).toBe(0)
  })
})

describe('wall timer', () => {
  test('fires once at its time, however far away', async () => {
    const clock = createFakeClock()
    const fired: number[] = []
    const atMs = clock.wallMs() + 100_000
    atWallTime(clock, atMs, () => void fired.push(clock.wallMs()))
    await clock.advance(99_999)
    expect(fired).toEqual([])
    await clock.advance(500_000)
    expect(fired).toEqual([atMs])
    expect(clock.waiting).toBe(0)
  })

  test('fires soon for a time that is over, and not after it was cancelled', async () => {
    const clock = createFakeClock()
    const fired: string[] = []
    atWallTime(clock, clock.wallMs() - 1, () => void fired.push('late'))
    const cancel = atWallTime(clock, clock.wallMs() + 90_000, () => void fired.push('cancelled'))
    await clock.advance(40_000)
    cancel()
    await clock.advance(100_000)
    expect(fired).toEqual(['late'])
    expect(clock.waiting).toBe(0)
  })
})

describe('PEM', () => {
  test('gives back the certificates it was written from, in order', () => {
    const ders = [authorityOf('a.example').rootDer, authorityOf('b.example').rootDer].map((der) => Buffer.from(der))
    expect(certificatesFromPem(certificatesToPem(ders))).toEqual(ders)
  })

  test.each([
    '',
    'text',
    '-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----',
    '-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----',
  ])('of %j is refused', (text) => {
    expect(reasonOf(() => certificatesFromPem(text))).toBe('CERTIFICATE_INVALID')
  })
})
