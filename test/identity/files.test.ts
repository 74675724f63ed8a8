import { execFileSync } from 'node:child_process'
import { generateKeyPairSync } from 'node:crypto'
import { chmodSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createLog, silentLog } from '../../src/base/log.ts'
import { identityFromPem, openSvidFiles, type SvidPem } from '../../src/identity/files.ts'
import { certificatesFromPem, certificatesToPem } from '../../src/identity/pem.ts'
import type { IdentityState } from '../../src/identity/source.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { authorityOf, identityOf, reasonOf, rejectionOf, temporaryDir } from './fixtures.ts'

const startMs = Date.UTC(2026, 10, 21, 12)
const clock = createFakeClock(startMs)
const authority = authorityOf('a.example', clock)

function pemOf({ svid, bundles }: IdentityState): SvidPem {
  return {
    svidPem: certificatesToPem(svid.chain),
    keyPem: svid.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    bundlePem: certificatesToPem([...bundles.values()].flat()),
  }
}

const alice = pemOf(identityOf(authority, '/alice', clock))

function write(pem: SvidPem, dir = temporaryDir()) {
  const paths = { svidPath: join(dir, 'svid.pem'), keyPath: join(dir, 'key.pem'), bundlePath: join(dir, 'bundle.pem') }
  writeFileSync(paths.svidPath, pem.svidPem)
  writeFileSync(paths.keyPath, pem.keyPem, { mode: 0o600 })
  writeFileSync(paths.bundlePath, pem.bundlePem)
  return { dir, paths }
}

describe('identity from PEM texts', () => {
  test('holds the SVID and the bundle of its own domain', () => {
    const { svid, bundles } = identityFromPem(alice, startMs)
    expect(svid.spiffeId).toBe('spiffe://a.example/alice')
    expect([...bundles]).toEqual([['a.example', [Buffer.from(authority.rootDer)]]])
  })

  const bob = pemOf(identityOf(authority, '/bob', clock))
  const { privateKey: p384 } = generateKeyPairSync('ec', { namedCurve: 'P-384' })
  test.each([
    ['the key of another', { ...alice, keyPem: bob.keyPem }, 'KEY_MISMATCH'],
    [
      'a key of another curve',
      { ...alice, keyPem: p384.export({ type: 'pkcs8', format: 'pem' }).toString() },
      'KEY_MISMATCH',
    ],
    ['no key', { ...alice, keyPem: 'nothing' }, 'KEY_MISMATCH'],
    ['no certificate', { ...alice, svidPem: 'nothing' }, 'CERTIFICATE_INVALID'],
    ['a broken certificate', { ...alice, svidPem: alice.svidPem.replace('MII', 'MIX') }, 'CERTIFICATE_INVALID'],
    [
      'no intermediate',
      { ...alice, svidPem: certificatesToPem(certificatesFromPem(alice.svidPem).slice(0, 1)) },
      'SVID_UNTRUSTED',
    ],
    [
      'another root',
      { ...alice, bundlePem: certificatesToPem([authorityOf('a.example', clock).rootDer]) },
      'SVID_UNTRUSTED',
    ],
    ['an empty bundle', { ...alice, bundlePem: '' }, 'CERTIFICATE_INVALID'],
    ['a root as SVID', { ...alice, svidPem: alice.bundlePem }, 'SVID_NO_ID'],
  ])('with %s is refused', (_name, pem, reason) => {
    expect(reasonOf(() => identityFromPem(pem, startMs))).toBe(reason)
  })

  test('that is expired is refused', () => {
    expect(reasonOf(() => identityFromPem(alice, startMs + 3_600_000))).toBe('SVID_EXPIRED')
  })

  test('survives PEM with other line ends and text around the blocks', () => {
    const svidPem = `Bag Attributes\r\n${alice.svidPem.replaceAll('\n', '\r\n')}`
    expect(identityFromPem({ ...alice, svidPem }, startMs).svid.chain.length).toBe(2)
  })
})

describe('identity from files', () => {
  test('follows the files: a new SVID is used and announced, half a change is not', async () => {
    const own = createFakeClock(startMs)
    const { dir, paths } = write(alice)
    const source = await openSvidFiles({ ...paths, clock: own, log: silentLog })
    onTestFinished(() => source.close())
    const seen: string[] = []
    source.onChange(({ svid }) => void seen.push(svid.spiffeId))
    const bob = pemOf(identityOf(authority, '/bob', clock))
    writeFileSync(paths.svidPath, bob.svidPem)
    await until(own, 2)
    expect([source.current().svid.spiffeId, seen]).toEqual(['spiffe://a.example/alice', []])
    write(bob, dir)
    await until(own, 2)
    expect(seen).toEqual(['spiffe://a.example/bob'])
    expect(source.current().svid.spiffeId).toBe('spiffe://a.example/bob')
    await source.close()
    expect(own.waiting).toBe(0)
  })

  test('follows a directory that is swapped behind a link', async () => {
    const own = createFakeClock(startMs)
    const dir = temporaryDir()
    const [one, two] = [write(alice).dir, write(pemOf(identityOf(authority, '/bob', clock))).dir]
    const link = join(dir, 'current')
    symlinkSync(one, link)
    const paths = {
      svidPath: join(link, 'svid.pem'),
      keyPath: join(link, 'key.pem'),
      bundlePath: join(link, 'bundle.pem'),
    }
    const source = await openSvidFiles({ ...paths, clock: own, log: silentLog })
    onTestFinished(() => source.close())
    symlinkSync(two, `${link}.new`)
    renameSync(`${link}.new`, link)
    await until(own, 2)
    expect(source.current().svid.spiffeId).toBe('spiffe://a.example/bob')
  })

  test('takes an SVID that was written before it was valid, and complains once until then', async () => {
    const own = createFakeClock(startMs)
    const lines: string[] = []
    const log = createLog({ level: 'warn', format: 'json', write: (line) => lines.push(line), wallMs: own.wallMs })
    const { dir, paths } = write(alice)
    const source = await openSvidFiles({ ...paths, clock: own, log })
    onTestFinished(() => source.close())
    const minutes = 10 * 60_000
    const later = createFakeClock(startMs + minutes)
    write(pemOf(identityOf(authorityOf('a.example', later), '/bob', later)), dir)
    await until(own, 3)
    expect(source.current().svid.spiffeId).toBe('spiffe://a.example/alice')
    expect(lines).toHaveLength(1)
    await own.advance(minutes)
    await until(own, 1)
    expect(source.current().svid.spiffeId).toBe('spiffe://a.example/bob')
  })

  test.each([
    ['a pipe that nobody writes into', (path: string) => void execFileSync('mkfifo', ['-m', '600', path])],
    ['a device without end', (path: string) => symlinkSync('/dev/zero', path)],
    ['a folder', (path: string) => symlinkSync('/', path)],
  ])('is not held up by %s in the place of one', async (_what, put) => {
    const { paths } = write(alice)
    rmSync(paths.keyPath)
    put(paths.keyPath)
    const opened = openSvidFiles({ ...paths, clock, log: silentLog })
    expect(await rejectionOf(opened)).toBe('STATE_INVALID')
  })

  test('refuses a file that is larger than any SVID', async () => {
    const { paths } = write(alice)
    truncateSync(paths.bundlePath, 1024 * 1024 + 1)
    expect(await rejectionOf(openSvidFiles({ ...paths, clock, log: silentLog }))).toBe('STATE_INVALID')
  })

  test('ends with the SVID when nobody renews the files', async () => {
    const own = createFakeClock(startMs)
    const source = await openSvidFiles({ ...write(alice).paths, clock: own, log: silentLog })
    onTestFinished(() => source.close())
    await own.advance(3_600_000)
    expect(reasonOf(() => source.current())).toBe('SVID_EXPIRED')
  })

  test.each([
    ['key.pem', 0o644],
    ['key.pem', 0o660],
    ['svid.pem', 0o666],
    ['bundle.pem', 0o622],
  ])('refuses %s with mode %o', async (name, mode) => {
    const { dir, paths } = write(alice)
    chmodSync(join(dir, name), mode)
    await expect(openSvidFiles({ ...paths, clock, log: silentLog })).rejects.toMatchObject({
      code: 'PERMISSION',
      message: expect.stringContaining(name),
    })
  })

  test('names the file that is missing', async () => {
    const { paths } = write(alice)
    const missing = openSvidFiles({ ...paths, bundlePath: `${paths.bundlePath}.no`, clock, log: silentLog })
    await expect(missing).rejects.toMatchObject({ code: 'IDENTITY', message: expect.stringContaining('bundle.pem.no') })
    expect(await rejectionOf(missing)).toBe('STATE_INVALID')
  })
})

/** Lets the source look at its files `times` times. */
async function until(own: ReturnType<typeof createFakeClock>, times: number): Promise<void> {
  for (let look = 0; look < times; look++) {
    await own.advance(5000)
    await expect.poll(() => own.waiting).toBe(1)
  }
}
