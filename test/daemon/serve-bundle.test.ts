import { execFileSync } from 'node:child_process'
import { copyFile, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { UndoStack } from '../../src/base/undo.ts'
import { refuseBundleWeb, serveBundleOnWeb } from '../../src/daemon/serve-bundle.ts'
import { createBundleEndpoint } from '../../src/identity/bundle-endpoint.ts'
import { fetchBundle } from '../../src/identity/bundle-fetch.ts'
import { authorityOf, rejectionOf } from '../identity/fixtures.ts'
import { opensslMissing } from '../identity/openssl.ts'
import { freePort } from '../support/free-port.ts'
import { scratchDir } from '../support/scratch.ts'

/** A certificate for 127.0.0.1 that nobody but its own text vouches for. */
function makePair(dir: string, name: string) {
  const paths = { certificatePath: join(dir, `${name}.pem`), keyPath: join(dir, `${name}-key.pem`) }
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2']
  const subject = ['-subj', '/CN=web', '-addext', 'subjectAltName=IP:127.0.0.1']
  const files = ['-keyout', paths.keyPath, '-out', paths.certificatePath]
  execFileSync('openssl', ['req', '-x509', ...kind, ...files, ...subject], { stdio: 'pipe' })
  return paths
}

async function served() {
  const dir = await scratchDir()
  const pair = makePair(dir, 'web')
  const authority = authorityOf('acme.example')
  const undo = new UndoStack(silentLog)
  onTestFinished(() => undo.run())
  const endpoint = createBundleEndpoint({ document: () => authority.document, clock: systemClock })
  const port = await freePort()
  const start = (change: object = {}) =>
    serveBundleOnWeb(
      { listen: `127.0.0.1:${port}`, ...pair, ...change },
      { endpoint, clock: systemClock, log: silentLog, undo },
    )
  const fetch = async (certificatePath = pair.certificatePath) =>
    fetchBundle(
      { profile: 'https_web', url: `https://127.0.0.1:${port}/bundle` },
      {
        ...{ bundles: new Map(), webRoots: await readFile(certificatePath, 'utf8'), clock: systemClock },
        signal: new AbortController().signal,
      },
    )
  return { dir, pair, authority, start, fetch, undo }
}

describe.skipIf(opensslMissing !== '')(`a bundle endpoint of the web ${opensslMissing}`, () => {
  test('gives the bundle to who believes its certificate, and to nobody after its end', async () => {
    const { authority, start, fetch, undo } = await served()
    await start()
    expect((await fetch()).sequence).toBe(authority.document.sequence)
    await undo.run()
    expect(await rejectionOf(fetch())).toBe('UNREACHABLE')
  })

  test('shows a new certificate soon after it was written, and the last one while the new one is broken', async () => {
    const { dir, pair, start, fetch } = await served()
    await start()
    const old = join(dir, 'old.pem')
    await copyFile(pair.certificatePath, old)
    await writeFile(pair.certificatePath, 'broken')
    const next = makePair(dir, 'next')
    expect((await fetch(old)).roots).toHaveLength(1)
    await copyFile(next.keyPath, pair.keyPath)
    await copyFile(next.certificatePath, pair.certificatePath)
    await expect.poll(() => rejectionOf(fetch(next.certificatePath))).toBe('nothing')
  })

  test('is refused with a key of another certificate, without files, and on a taken port', async () => {
    const { dir, start } = await served()
    const { keyPath } = makePair(dir, 'other')
    expect(await rejectionOf(start({ keyPath }))).toBe('USAGE')
    expect(await rejectionOf(start({ certificatePath: join(dir, 'none.pem') }))).toBe('USAGE')
    await start()
    expect(await rejectionOf(start())).toBe('CONFLICT')
  })
})

test('a further site gives no bundle', () => {
  refuseBundleWeb({})
  const bundleWeb = { listen: '0.0.0.0:1', certificatePath: 'a', keyPath: 'b' }
  expect(() => refuseBundleWeb({ bundleWeb })).toThrow(expect.objectContaining({ code: 'USAGE' }))
})
