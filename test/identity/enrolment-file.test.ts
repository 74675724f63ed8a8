import { chmod, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { NsmError } from '../../src/base/errors.ts'
import { createAuthority } from '../../src/identity/ca.ts'
import { createCsr, verifyCsr } from '../../src/identity/csr.ts'
import { loadEnrolment, saveEnrolment } from '../../src/identity/enrolment-file.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { stateFromIssued } from '../../src/identity/svid.ts'
import { scratchDir } from '../support/scratch.ts'

const serverUrl = 'nsm://192.0.2.1:5001/?td=mesh.internal'

function issue() {
  const key = generateKey()
  const authority = createAuthority({ trustDomain: 'mesh.internal', clock: systemClock })
  const wanted = { ...verifyCsr(createCsr(key)), spiffeId: 'spiffe://mesh.internal/member/a', ttlMs: 3_600_000 }
  return stateFromIssued(authority.issueForKey(wanted), key, Date.now())
}

const saved = async () => {
  const path = join(await scratchDir(), 'enrolment', 'mesh.internal.json')
  const state = issue()
  await saveEnrolment(path, { serverUrl, state })
  return { path, state }
}

describe('an enrolment', () => {
  test('comes back as it was', async () => {
    const { path, state } = await saved()
    const loaded = await loadEnrolment(path)
    expect(loaded?.serverUrl).toBe(serverUrl)
    expect(loaded?.state.svid.spiffeId).toBe('spiffe://mesh.internal/member/a')
    expect(loaded?.state.svid.privateKey.equals(state.svid.privateKey)).toBe(true)
    expect(loaded?.state.svid.notAfterMs).toBe(state.svid.notAfterMs)
    expect(loaded?.state.svid.chain.map((der) => Buffer.from(der))).toEqual(
      state.svid.chain.map((der) => Buffer.from(der)),
    )
    expect([...(loaded?.state.bundles.keys() ?? [])]).toEqual(['mesh.internal'])
  })

  test('is readable by its owner only, in a folder that is too', async () => {
    const { path } = await saved()
    expect((await stat(path)).mode & 0o077).toBe(0)
    expect((await stat(join(path, '..'))).mode & 0o077).toBe(0)
  })

  test('is none where there is no file, and refused where others may write it', async () => {
    const { path } = await saved()
    expect(await loadEnrolment(`${path}.none`)).toBeUndefined()
    await chmod(path, 0o622)
    await expect(loadEnrolment(path)).rejects.toMatchObject({ code: 'PERMISSION' })
  })

  test.each([
    ['another version', (text: string) => text.replace('"version": 1', '"version": 2')],
    ['a key that is none', (text: string) => text.replace('PRIVATE KEY', 'SECRET')],
    ['half of it', (text: string) => text.slice(0, text.length / 2)],
    ['a list', () => '[]'],
    ['nothing', () => ''],
  ])('with %s is refused, and says what to do', async (_what, change) => {
    const { path } = await saved()
    await writeFile(path, change(await readFile(path, 'utf8')))
    await expect(loadEnrolment(path)).rejects.toMatchObject({
      code: 'IDENTITY',
      next: expect.stringContaining('nsm invite'),
    })
  })

  test('throws nothing but NsmError for any JSON', async () => {
    const { path } = await saved()
    await fc.assert(
      fc.asyncProperty(fc.json(), async (json) => {
        await writeFile(path, json)
        await loadEnrolment(path).then(
          () => expect.fail('read what is no enrolment'),
          (error: unknown) => expect(error).toBeInstanceOf(NsmError),
        )
      }),
      { numRuns: 50 },
    )
  })
})
