import { createPrivateKey, type KeyObject } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import type { Clock } from '../base/clock.ts'
import { NsmError, systemCode, toNsmError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { readCertificate } from './certificate.ts'
import { createFixedSource } from './fixed-source.ts'
import { certificatesFromPem } from './pem.ts'
import { reasonOf, refusal } from './refusal.ts'
import type { IdentitySource, IdentityState } from './source.ts'
import { parseSpiffeId } from './spiffe-id.ts'
import { stateFromParts } from './svid.ts'

/** The PEM texts of an identity; the bundle holds the roots of the SVID's own trust domain. */
export interface SvidPem {
  readonly svidPem: string
  readonly keyPem: string
  readonly bundlePem: string
}

/** An identity from PEM texts; throws `IDENTITY` when they are broken, expired or do not belong together. */
export function identityFromPem(pem: SvidPem, nowMs: number): IdentityState {
  const chain = certificatesFromPem(pem.svidPem)
  const [leaf] = chain.map(readCertificate)
  const { trustDomain } = parseSpiffeId(leaf?.uris[0] ?? '')
  const bundles = new Map([[trustDomain, certificatesFromPem(pem.bundlePem)]])
  return stateFromParts({ chain, privateKey: readKey(pem.keyPem), bundles, nowMs })
}

/**
 * An identity in files that another program renews (SPIRE's helper, cert-manager). They are read again every 5 s; while
 * they do not belong together the last good identity stays. Throws `IDENTITY`, or `PERMISSION` for files that are not
 * private enough.
 */
export async function openSvidFiles(settings: {
  readonly svidPath: string
  readonly keyPath: string
  readonly bundlePath: string
  readonly clock: Clock
  readonly log: Log
}): Promise<IdentitySource> {
  const { clock, log } = settings
  let texts = await readTexts(settings)
  const held = createFixedSource(identityFromPem(texts, clock.wallMs()), clock)
  let reading: Promise<void> = Promise.resolve()
  let cancel = () => {}
  let isClosed = false
  /** Why the last look was in vain; said once, not at every look. */
  let trouble: string | undefined
  const readAgain = async () => {
    try {
      const next = await readTexts(settings)
      if (!isSame(texts, next)) {
        held.set(identityFromPem(next, clock.wallMs()))
        texts = next
        log.info('identity read again')
      }
      trouble = undefined
    } catch (error) {
      if (reasonOf(error) === trouble) return
      trouble = reasonOf(error)
      log.warn('identity files cannot be used, the last identity stays', { error: toNsmError(error).message })
    }
  }
  const plan = () => {
    if (isClosed) return
    cancel = clock.after(rereadMs, () => {
      reading = readAgain().then(plan)
    })
  }
  plan()
  return {
    current: held.current,
    onChange: held.onChange,
    async close() {
      isClosed = true
      cancel()
      await reading
      await held.close()
    },
  }
}

/** Ours: files are renewed minutes before they expire; reading three small ones costs nothing. */
const rereadMs = 5_000

async function readTexts(paths: {
  readonly svidPath: string
  readonly keyPath: string
  readonly bundlePath: string
}): Promise<SvidPem> {
  return {
    svidPem: await readOwned(paths.svidPath, writableByOthers),
    keyPem: await readOwned(paths.keyPath, writableByOthers | readableByAll),
    bundlePem: await readOwned(paths.bundlePath, writableByOthers),
  }
}

const writableByOthers = 0o022
const readableByAll = 0o004

/** Ours: a chain has some KiB, a bundle of a hundred roots 100 KiB. */
const pemMaxBytes = 1024 * 1024

/**
 * Links are followed: Kubernetes and cert-manager swap directories behind one. What the writer of the files puts in their
 * place must not hold us up: a pipe is not waited for, and a device has no end.
 */
async function readOwned(path: string, forbidden: number): Promise<string> {
  let file: FileHandle | undefined
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    const found = await file.stat()
    if (!found.isFile() || found.size > pemMaxBytes) {
      throw refusal('STATE_INVALID', `${path} is no file with PEM text`, { next: 'check the path' })
    }
    const own = process.getuid?.()
    // Root was told the path by root.
    const isOurs = own === 0 || found.uid === own || found.uid === 0
    if (!isOurs || (found.mode & forbidden) !== 0) {
      throw new NsmError('PERMISSION', `${path} may be read or written by others`, `chmod 600 ${path}`)
    }
    return await file.readFile('utf8')
  } catch (error) {
    if (error instanceof NsmError) throw error
    const why = systemCode(error) ?? 'unreadable'
    throw refusal('STATE_INVALID', `${path} cannot be read: ${why}`, { next: 'check the path', cause: error })
  } finally {
    await file?.close()
  }
}

function isSame(a: SvidPem, b: SvidPem): boolean {
  return a.svidPem === b.svidPem && a.keyPem === b.keyPem && a.bundlePem === b.bundlePem
}

function readKey(pem: string): KeyObject {
  try {
    return createPrivateKey(pem)
  } catch (error) {
    throw refusal('KEY_MISMATCH', 'the text holds no readable private key', {
      next: 'give an unencrypted PKCS #8 or EC key in PEM',
      cause: error,
    })
  }
}
