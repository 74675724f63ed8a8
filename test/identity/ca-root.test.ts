import { chmod, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { loadRoot, makeRoot, newRoot, signerName } from '../../src/identity/ca-root.ts'
import { scratchDir } from '../support/scratch.ts'

const nowMs = Date.UTC(2026, 0, 1)
const yearMs = 365 * 86_400_000

describe('newRoot', () => {
  test('is its own signer, for its whole domain, for ten years, from a minute ago', () => {
    const { certificate, trustDomain } = newRoot('mesh.internal', nowMs)
    expect(trustDomain).toBe('mesh.internal')
    expect(certificate).toMatchObject({ isCa: true, uris: ['spiffe://mesh.internal'], notBeforeMs: nowMs - 60_000 })
    expect(certificate.notAfterMs).toBe(nowMs + 10 * yearMs)
  })

  test('makes up a domain that nobody else has', () => {
    const names = Array.from({ length: 20 }, () => newRoot(undefined, nowMs).trustDomain)
    for (const name of names) expect(name).toMatch(/^nsm-[a-z2-7]{10}\.internal$/)
    expect(new Set(names).size).toBe(20)
  })

  test.each(['', 'Mesh', 'a b', 'a/b', 'spiffe://a', 'ä'])('refuses %j as a domain', (name) => {
    expect(() => newRoot(name, nowMs)).toThrow(expect.objectContaining({ code: 'USAGE' }))
  })
})

describe('signerName', () => {
  test('has at most 64 characters whatever the domain', () => {
    expect(signerName('mesh.internal', 'root')).toBe('mesh.internal root')
    expect(signerName('x'.repeat(255), 'intermediate').length).toBeLessThanOrEqual(64)
  })
})

describe('a root on disk', () => {
  test('comes back as it was, and its key is for its owner only', async () => {
    const dir = await scratchDir()
    const made = await makeRoot(dir, 'mesh.internal', nowMs)
    const loaded = await loadRoot(dir)
    expect(loaded?.trustDomain).toBe('mesh.internal')
    expect(Buffer.from(loaded?.certificate.der ?? [])).toEqual(Buffer.from(made.certificate.der))
    expect(loaded?.privateKey.equals(made.privateKey)).toBe(true)
    expect((await stat(join(dir, 'ca-key.pem'))).mode & 0o077).toBe(0)
  })

  test('is none in an empty folder, and where a start was cut off after the key', async () => {
    const dir = await scratchDir()
    expect(await loadRoot(dir)).toBeUndefined()
    const other = await scratchDir()
    await makeRoot(other, undefined, nowMs)
    await writeFile(join(dir, 'ca-key.pem'), await readFile(join(other, 'ca-key.pem')), { mode: 0o600 })
    expect(await loadRoot(dir)).toBeUndefined()
  })

  test.each<[string, (dir: string, other: string) => Promise<void>]>([
    [
      'the key of another',
      async (dir, other) => writeFile(join(dir, 'ca-key.pem'), await readFile(join(other, 'ca-key.pem'))),
    ],
    ['a key that is none', async (dir) => writeFile(join(dir, 'ca-key.pem'), 'no key')],
    ['a certificate that is none', async (dir) => writeFile(join(dir, 'ca.pem'), 'no certificate')],
  ])('with %s is refused, not replaced', async (_what, damage) => {
    const [dir, other] = [await scratchDir(), await scratchDir()]
    await makeRoot(dir, undefined, nowMs)
    await makeRoot(other, undefined, nowMs)
    await damage(dir, other)
    await expect(loadRoot(dir)).rejects.toMatchObject({ code: 'IDENTITY' })
  })

  test('that others may write is refused', async () => {
    const dir = await scratchDir()
    await makeRoot(dir, undefined, nowMs)
    await chmod(join(dir, 'ca-key.pem'), 0o666)
    await expect(loadRoot(dir)).rejects.toMatchObject({ code: 'PERMISSION' })
  })
})
