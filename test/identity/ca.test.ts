import { createPublicKey, generateKeyPairSync, X509Certificate } from 'node:crypto'
import { chmodSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import type { LogFields } from '../../src/base/log.ts'
import { silentLog } from '../../src/base/log.ts'
import { createAuthority, openAuthority } from '../../src/identity/ca.ts'
import { readCertificate, serialNumberOf } from '../../src/identity/certificate.ts'
import { createCsr, verifyCsr } from '../../src/identity/csr.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { certificatesToPem } from '../../src/identity/pem.ts'
import { verifyPeer } from '../../src/identity/verify.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { identityOf, reasonOf, rejectionOf, temporaryDir } from './fixtures.ts'
import { openssl, opensslMissing } from './openssl.ts'

const startMs = Date.UTC(2026, 10, 21, 12)
const dayMs = 86_400_000
const publicKey = createPublicKey(generateKey())
const spiffeId = 'spiffe://a.example/alice'
const newAuthority = (clock = createFakeClock(startMs)) => ({
  clock,
  authority: createAuthority({ trustDomain: 'a.example', clock }),
})

describe('authority', () => {
  test('issues a leaf for a request that every verifier of its domain accepts', () => {
    const { clock, authority } = newAuthority()
    const key = generateKey()
    const issued = authority.issueForKey({ ...verifyCsr(createCsr(key)), spiffeId, ttlMs: 3_600_000 })
    expect(issued.chain.length).toBe(2)
    expect(verifyPeer({ chain: issued.chain, bundles: issued.bundles, nowMs: clock.wallMs() })).toMatchObject({
      spiffeId,
      notAfterMs: issued.notAfterMs,
    })
    const leaf = readCertificate(issued.chain[0] ?? new Uint8Array())
    expect([leaf.notBeforeMs, leaf.notAfterMs]).toEqual([startMs - 60_000, startMs + 3_600_000])
    expect(new X509Certificate(leaf.der).publicKey.equals(createPublicKey(key))).toBe(true)
  })

  test.each([
    ['a year', 365 * dayMs, dayMs],
    ['an hour', 3_600_000, 3_600_000],
    ['nothing', 0, 1000],
    ['a negative time', -5000, 1000],
  ])('gives a leaf that asked for %s at most a day and at least a second', (_name, ttlMs, lifeMs) => {
    const { authority } = newAuthority()
    expect(authority.issueForKey({ publicKey, spiffeId, ttlMs }).notAfterMs).toBe(startMs + lifeMs)
  })

  test('gives a leaf no more than half of what is left of the root, and nothing after that', async () => {
    const { clock, authority } = newAuthority()
    await clock.advance(10 * 365 * dayMs - 3_600_000)
    expect(authority.issueForKey({ publicKey, spiffeId, ttlMs: dayMs }).notAfterMs).toBe(clock.wallMs() + 1_800_000)
    await clock.advance(3_600_000)
    expect(reasonOf(() => authority.issueForKey({ publicKey, spiffeId, ttlMs: dayMs }))).toBe('SVID_EXPIRED')
  })

  test('replaces its intermediate at half life, so that no leaf outlives it', async () => {
    const { clock, authority } = newAuthority()
    const intermediates = new Set<string>()
    for (let day = 0; day < 15; day++) {
      const { chain, bundles } = authority.issueForKey({ publicKey, spiffeId, ttlMs: dayMs })
      const intermediate = readCertificate(chain[1] ?? new Uint8Array())
      expect(intermediate.notAfterMs).toBeGreaterThanOrEqual(clock.wallMs() + dayMs)
      intermediates.add(Buffer.from(intermediate.der).toString('hex'))
      expect(reasonOf(() => verifyPeer({ chain, bundles, nowMs: clock.wallMs() }))).toBe('nothing')
      await clock.advance(dayMs)
    }
    expect(intermediates.size).toBe(4)
  })

  test.each([
    ['another domain', 'spiffe://b.example/alice'],
    ['no path', 'spiffe://a.example'],
    ['no ID', 'alice'],
    ['a domain that only begins alike', 'spiffe://a.example.com/alice'],
  ])('refuses an ID of %s', (_name, id) => {
    const { authority } = newAuthority()
    expect(reasonOf(() => authority.issueForKey({ publicKey, spiffeId: id, ttlMs: dayMs }))).toBe('ID_INVALID')
  })

  test('refuses a key of another kind', () => {
    const { authority } = newAuthority()
    const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey
    expect(reasonOf(() => authority.issueForKey({ publicKey: rsa, spiffeId, ttlMs: dayMs }))).toBe('CSR_INVALID')
  })

  test('gives every certificate another serial number', () => {
    const { authority } = newAuthority()
    const serials = Array.from({ length: 200 }, () => {
      const { chain } = authority.issueForKey({ publicKey, spiffeId, ttlMs: dayMs })
      const { serialNumber } = new X509Certificate(chain[0] ?? new Uint8Array())
      expect(serialNumberOf(chain[0] ?? new Uint8Array())).toBe(serialNumber)
      return serialNumber
    })
    expect(new Set(serials).size).toBe(200)
  })

  test('names a random trust domain when none is given, and refuses a bad one', () => {
    const clock = createFakeClock(startMs)
    const [one, two] = [createAuthority({ clock }), createAuthority({ clock })]
    expect(one.trustDomain).toMatch(/^nsm-[a-z2-7]{10}\.internal$/)
    expect(two.trustDomain).not.toBe(one.trustDomain)
    expect(reasonOf(() => createAuthority({ trustDomain: 'Not One', clock }))).toBe('USAGE')
  })

  test('serves a trust domain of 255 characters', () => {
    const clock = createFakeClock(startMs)
    const authority = createAuthority({ trustDomain: 'd'.repeat(255), clock })
    expect(identityOf(authority, '/x', clock).svid.spiffeId).toBe(`spiffe://${'d'.repeat(255)}/x`)
  })

  test('tells the log of every certificate, and no key', () => {
    const lines: LogFields[] = []
    const log = { ...silentLog, info: (_sentence: string, fields: LogFields = {}) => void lines.push(fields) }
    createAuthority({ trustDomain: 'a.example', clock: createFakeClock(startMs), log }).issueForKey({
      publicKey,
      spiffeId,
      ttlMs: 60_000,
    })
    expect(lines).toEqual([{ peer: spiffeId, expires: new Date(startMs + 60_000).toISOString() }])
  })

  test.skipIf(opensslMissing !== '')(
    `issues chains that openssl accepts under its strict rules ${opensslMissing}`,
    () => {
      const dir = temporaryDir()
      const { authority } = newAuthority()
      const { chain } = authority.issueForKey({ publicKey, spiffeId, ttlMs: 3_600_000 })
      const [leaf = new Uint8Array(), intermediate = new Uint8Array()] = chain
      const write = (name: string, der: Uint8Array) => {
        writeFileSync(join(dir, name), certificatesToPem([der]))
        return join(dir, name)
      }
      const files = [write('root', authority.rootDer), write('intermediate', intermediate), write('leaf', leaf)]
      const [rootPath = '', intermediatePath = '', leafPath = ''] = files
      for (const purpose of ['sslclient', 'sslserver']) {
        const at = ['-attime', String(startMs / 1000)]
        const said = openssl([
          'verify',
          '-x509_strict',
          '-purpose',
          purpose,
          ...at,
          '-CAfile',
          rootPath,
          '-untrusted',
          intermediatePath,
          leafPath,
        ])
        expect(said.trim()).toBe(`${leafPath}: OK`)
      }
      const text = openssl(['x509', '-in', leafPath, '-noout', '-text'])
      expect(text).toContain(`URI:${spiffeId}`)
      expect(text).toContain('CA:FALSE')
      expect(text).toContain('Digital Signature')
      expect(text).toContain('TLS Web Server Authentication, TLS Web Client Authentication')
      expect(openssl(['x509', '-in', rootPath, '-noout', '-text'])).toContain('CA:TRUE, pathlen:2')
    },
  )
})

describe('authority of a directory', () => {
  test('is the same root and domain after a restart, and chains from before still hold', async () => {
    const dir = join(temporaryDir(), 'ca')
    const clock = createFakeClock(startMs)
    const first = await openAuthority({ dir, clock })
    const { chain } = first.issueForKey({ publicKey, spiffeId: `spiffe://${first.trustDomain}/x`, ttlMs: dayMs })
    const second = await openAuthority({ dir, clock })
    expect([second.trustDomain, second.rootSpkiPin]).toEqual([first.trustDomain, first.rootSpkiPin])
    expect(first.rootSpkiPin).toMatch(/^sha256-[A-Za-z0-9_-]{43}$/)
    expect(reasonOf(() => verifyPeer({ chain, bundles: second.bundles, nowMs: startMs }))).toBe('nothing')
    const renewed = second.issueForKey({ publicKey, spiffeId: `spiffe://${first.trustDomain}/y`, ttlMs: dayMs })
    expect(reasonOf(() => verifyPeer({ chain: renewed.chain, bundles: first.bundles, nowMs: startMs }))).toBe('nothing')
  })

  test('keeps its key in a file that only its owner reads', async () => {
    const dir = join(temporaryDir(), 'ca')
    await openAuthority({ dir, clock: createFakeClock(startMs) })
    expect(statSync(dir).mode & 0o777).toBe(0o700)
    expect(statSync(join(dir, 'ca-key.pem')).mode & 0o777).toBe(0o600)
  })

  test.each(['ca-key.pem', 'ca.pem'])('refuses to start when others may write %s', async (name) => {
    const dir = join(temporaryDir(), 'ca')
    const clock = createFakeClock(startMs)
    await openAuthority({ dir, clock })
    chmodSync(join(dir, name), 0o666)
    await expect(openAuthority({ dir, clock })).rejects.toMatchObject({
      code: 'PERMISSION',
      message: expect.stringContaining(name),
    })
  })

  test('refuses another trust domain than the stored one', async () => {
    const dir = join(temporaryDir(), 'ca')
    const clock = createFakeClock(startMs)
    await openAuthority({ dir, clock, trustDomain: 'a.example' })
    expect(await rejectionOf(openAuthority({ dir, clock, trustDomain: 'b.example' }))).toBe('CONFLICT')
    expect((await openAuthority({ dir, clock, trustDomain: 'a.example' })).trustDomain).toBe('a.example')
  })

  test('starts anew after a first start that was cut off before the certificate was written', async () => {
    const dir = join(temporaryDir(), 'ca')
    const clock = createFakeClock(startMs)
    const first = await openAuthority({ dir, clock })
    rmSync(join(dir, 'ca.pem'))
    expect((await openAuthority({ dir, clock })).rootSpkiPin).not.toBe(first.rootSpkiPin)
  })

  test('refuses a key that is missing, broken or of another certificate', async () => {
    const [dir, other] = [join(temporaryDir(), 'ca'), join(temporaryDir(), 'ca')]
    const clock = createFakeClock(startMs)
    await openAuthority({ dir, clock })
    await openAuthority({ dir: other, clock })
    writeFileSync(join(dir, 'ca-key.pem'), readFileSync(join(other, 'ca-key.pem')))
    expect(await rejectionOf(openAuthority({ dir, clock }))).toBe('STATE_INVALID')
    writeFileSync(join(dir, 'ca-key.pem'), 'garbage')
    expect(await rejectionOf(openAuthority({ dir, clock }))).toBe('STATE_INVALID')
    rmSync(join(dir, 'ca-key.pem'))
    expect(await rejectionOf(openAuthority({ dir, clock }))).toBe('STATE_INVALID')
  })

  test('refuses to start with a clock that is years behind', async () => {
    const clock = createFakeClock(Date.UTC(2001, 0, 1))
    expect(await rejectionOf(openAuthority({ dir: join(temporaryDir(), 'ca'), clock }))).toBe('CLOCK_SKEW')
  })
})
