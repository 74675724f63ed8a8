import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type Authority, openAuthority } from '../../src/identity/ca.ts'
import { saveRoot } from '../../src/identity/ca-root.ts'
import { loadRotation } from '../../src/identity/ca-rotation-file.ts'
import { certificatesToPem } from '../../src/identity/pem.ts'
import { verifyPeer } from '../../src/identity/verify.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'
import { scratchDir } from '../support/scratch.ts'
import { identityOf, reasonOf, rejectionOf } from './fixtures.ts'
import { openssl, opensslMissing } from './openssl.ts'

const minuteMs = 60_000
const hourMs = 60 * minuteMs
/** Until members have renewed by the root that signs. */
const renewedMs = 5 * minuteMs

async function open(dir: string, clock: FakeClock): Promise<Authority> {
  const authority = await openAuthority({ dir, clock, trustDomain: 'a.example' })
  onTestFinished(() => authority.close())
  return authority
}

async function bench() {
  const dir = join(await scratchDir(), 'ca')
  const clock = createFakeClock(Date.now())
  return { dir, clock, authority: await open(dir, clock), reopen: () => open(dir, clock) }
}

/** Who of the two times' bundles believes an SVID. */
const believes = (bundles: Authority['bundles'], authority: Authority, clock: FakeClock) =>
  reasonOf(() => verifyPeer({ chain: identityOf(authority, '/x', clock).svid.chain, bundles, nowMs: clock.wallMs() }))

describe('rotating the root', () => {
  test('publishes a new root that signs after 20 minutes, and drops the old one after 25 hours', async () => {
    const { clock, authority } = await bench()
    const [old, sequence] = [authority.rootDer, authority.document.sequence ?? 0]
    const nextMs = clock.wallMs() + 20 * minuteMs
    expect(await authority.rotation.begin()).toEqual({ phase: 'published', nextMs, finishMs: nextMs + renewedMs })
    expect([authority.rootDer, authority.bundles.get('a.example')?.length]).toEqual([old, 2])
    await clock.advance(20 * minuteMs - 1)
    expect(authority.rotation.view().phase).toBe('published')
    await clock.advance(1)
    await expect.poll(() => authority.rotation.view().phase).toBe('issuing')
    const fresh = authority.rootDer
    expect(fresh).not.toBe(old)
    expect(authority.bundles.get('a.example')).toEqual([fresh, old])
    expect(authority.document.sequence).toBeGreaterThan(sequence)
    const both = authority.document.sequence ?? 0
    await clock.advance(25 * hourMs - 1)
    expect(authority.rotation.view().phase).toBe('issuing')
    await clock.advance(1)
    await expect.poll(() => authority.rotation.view()).toEqual({ phase: 'steady' })
    expect(authority.bundles.get('a.example')).toEqual([fresh])
    expect(authority.document.sequence).toBeGreaterThan(both)
  })

  test('in each phase what is issued is believed with the bundle of this phase and of both next to it', async () => {
    const { clock, authority } = await bench()
    const bundles = [authority.bundles]
    const seen: string[][] = []
    const look = () => void seen.push(bundles.map((known) => believes(known, authority, clock)))
    look()
    await authority.rotation.begin(0)
    bundles.push(authority.bundles)
    look()
    await clock.advance(1)
    await expect.poll(() => authority.rotation.view().phase).toBe('issuing')
    bundles.push(authority.bundles)
    look()
    await clock.advance(renewedMs)
    await authority.rotation.finish()
    bundles.push(authority.bundles)
    look()
    const ok = 'nothing'
    // Who slept since the beginning believes what the new root signs until the old one is dropped.
    expect(seen).toEqual([[ok], [ok, ok], [ok, ok, ok], ['SVID_UNTRUSTED', ok, ok, ok]])
  })

  test('what the old root signed is believed until it is dropped', async () => {
    const { clock, authority } = await bench()
    const { chain } = identityOf(authority, '/x', clock, 20 * hourMs).svid
    const verdict = () => reasonOf(() => verifyPeer({ chain, bundles: authority.bundles, nowMs: clock.wallMs() }))
    await authority.rotation.begin(0)
    await clock.advance(1)
    await expect.poll(() => authority.rotation.view().phase).toBe('issuing')
    expect(verdict()).toBe('nothing')
    await clock.advance(renewedMs)
    expect(verdict()).toBe('nothing')
    await authority.rotation.finish()
    expect(verdict()).toBe('SVID_UNTRUSTED')
  })

  test('refuses a second change, and an end before the new root signs', async () => {
    const { clock, authority } = await bench()
    expect(await rejectionOf(authority.rotation.finish())).toBe('CONFLICT')
    const [first, second] = await Promise.allSettled([authority.rotation.begin(0), authority.rotation.begin(0)])
    expect([first.status, second.status]).toEqual(['fulfilled', 'rejected'])
    expect(await rejectionOf(authority.rotation.finish())).toBe('CONFLICT')
    await clock.advance(1)
    await expect.poll(() => authority.rotation.view().phase).toBe('issuing')
    expect(await rejectionOf(authority.rotation.begin())).toBe('CONFLICT')
    await clock.advance(renewedMs)
    expect(await authority.rotation.finish()).toEqual({ phase: 'steady' })
    expect(await authority.rotation.begin()).toMatchObject({ phase: 'published' })
  })

  test('refuses its end until members had the time to renew, and says from when on', async () => {
    const { clock, authority, reopen } = await bench()
    await authority.rotation.begin(0)
    await clock.advance(1)
    await expect.poll(() => authority.rotation.view().phase).toBe('issuing')
    const refusedUntil = (wallMs: number) => ({
      code: 'CONFLICT',
      message: expect.stringContaining(`from ${new Date(wallMs).toISOString()}`),
      next: expect.stringContaining('would have to join again'),
    })
    const changedMs = (authority.rotation.view().nextMs ?? 0) - 25 * hourMs
    expect(authority.rotation.view().finishMs).toBe(changedMs + renewedMs)
    await clock.advance(changedMs + renewedMs - 1 - clock.wallMs())
    await expect(authority.rotation.finish()).rejects.toMatchObject(refusedUntil(changedMs + renewedMs))
    authority.close()
    await clock.advance(hourMs)
    // Who lost the server has not heard of the new root either.
    const again = await reopen()
    await expect(again.rotation.finish()).rejects.toMatchObject(refusedUntil(clock.wallMs() + renewedMs))
    expect(again.bundles.get('a.example')).toHaveLength(2)
    await clock.advance(renewedMs)
    expect(await again.rotation.finish()).toEqual({ phase: 'steady' })
  })

  test('tells of each change, and leaves no timer when it is closed', async () => {
    const { clock, authority } = await bench()
    const told: string[] = []
    authority.onChange(() => told.push(authority.rotation.view().phase))
    await authority.rotation.begin(0)
    await clock.advance(1)
    await expect.poll(() => told).toEqual(['published', 'issuing'])
    await clock.advance(renewedMs)
    await authority.rotation.finish()
    expect(told).toEqual(['published', 'issuing', 'steady'])
    await authority.rotation.begin()
    authority.close()
    expect(clock.waiting).toBe(0)
  })

  test('keeps the key of the old root nowhere in the end', async () => {
    const { dir, clock, authority } = await bench()
    const old = await readFile(join(dir, 'ca-key.pem'), 'utf8')
    await authority.rotation.begin(0)
    expect((await stat(join(dir, 'rotation.json'))).mode & 0o077).toBe(0)
    await clock.advance(1)
    await expect.poll(() => authority.rotation.view().phase).toBe('issuing')
    await clock.advance(renewedMs)
    await authority.rotation.finish()
    expect((await readdir(dir)).sort()).toEqual(['ca-key.pem', 'ca.pem'])
    expect((await stat(join(dir, 'ca-key.pem'))).mode & 0o077).toBe(0)
    expect(await readFile(join(dir, 'ca-key.pem'), 'utf8')).not.toBe(old)
  })
})

describe('a restart', () => {
  test('in each phase goes on where it was, with the same roots', async () => {
    const { clock, authority, reopen } = await bench()
    const same = (again: Authority, before: Authority) => {
      expect(again.rotation.view()).toEqual(before.rotation.view())
      expect(again.document).toEqual(before.document)
      expect(again.rootSpkiPin).toBe(before.rootSpkiPin)
    }
    await authority.rotation.begin()
    authority.close()
    const published = await reopen()
    same(published, authority)
    await clock.advance(20 * minuteMs)
    await expect.poll(() => published.rotation.view().phase).toBe('issuing')
    published.close()
    const issuing = await reopen()
    same(issuing, published)
    await clock.advance(renewedMs)
    await issuing.rotation.finish()
    issuing.close()
    same(await reopen(), issuing)
  })

  test('after the time of a phase has passed goes on with the next at once', async () => {
    const { clock, authority, reopen } = await bench()
    await authority.rotation.begin()
    authority.close()
    await clock.advance(48 * hourMs)
    const again = await reopen()
    await clock.advance(0)
    await expect.poll(() => again.rotation.view().phase).toBe('issuing')
  })

  test('in the middle of the end brings it to its end, wherever it was cut off', async () => {
    const { dir, clock, authority, reopen } = await bench()
    await authority.rotation.begin(0)
    await clock.advance(1)
    await expect.poll(() => authority.rotation.view().phase).toBe('issuing')
    const { rootSpkiPin } = authority
    authority.close()
    const state = await loadRotation(dir)
    const file = join(dir, 'rotation.json')
    const finishing = (await readFile(file, 'utf8')).replace('"issuing"', '"finishing"')
    await writeFile(file, finishing, { mode: 0o600 })
    if (!state) expect.unreachable()
    await saveRoot(dir, state.next)
    await rm(join(dir, 'ca.pem'))
    const again = await reopen()
    expect([again.rootSpkiPin, again.rotation.view()]).toEqual([rootSpkiPin, { phase: 'steady' }])
    expect((await readdir(dir)).sort()).toEqual(['ca-key.pem', 'ca.pem'])
  })

  test('refuses a folder in which the old root is missing', async () => {
    const { dir, authority, reopen } = await bench()
    await authority.rotation.begin()
    authority.close()
    await rm(join(dir, 'ca.pem'))
    expect(await rejectionOf(reopen())).toBe('STATE_INVALID')
  })

  test.each(['', '{}', '{"phase":"issuing"}', '[]'])('refuses a damaged file of the change: %j', async (text) => {
    const { dir, reopen } = await bench()
    await writeFile(join(dir, 'rotation.json'), text, { mode: 0o600 })
    expect(await rejectionOf(reopen())).toBe('STATE_INVALID')
  })
})

describe.skipIf(opensslMissing !== '')(`the new root ${opensslMissing}`, () => {
  test('is found by openssl with the old one alone, while the old one is believed', async () => {
    const { dir, clock, authority } = await bench()
    const write = async (name: string, ...ders: readonly Uint8Array[]) => {
      await writeFile(join(dir, name), certificatesToPem(ders))
      return join(dir, name)
    }
    const old = await write('old', authority.rootDer)
    await authority.rotation.begin(0)
    await clock.advance(1)
    await expect.poll(() => authority.rotation.view().phase).toBe('issuing')
    const fresh = await write('new', authority.rootDer)
    const [leaf = new Uint8Array(), ...between] = identityOf(authority, '/x', clock).svid.chain
    const [leafPath, chainPath] = [await write('leaf', leaf), await write('chain', ...between)]
    for (const root of [old, fresh]) {
      const args = ['verify', '-x509_strict', '-CAfile', root, '-untrusted', chainPath, leafPath]
      expect(openssl(args)).toContain('OK')
    }
  })
})
