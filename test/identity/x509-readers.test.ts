import 'reflect-metadata'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import * as x509 from '@peculiar/x509'
import { describe, expect, test } from 'vitest'
import { type Certificate, readCertificate } from '../../src/identity/certificate.ts'
import { verifyCsr } from '../../src/identity/csr.ts'
import { spkiOf } from '../../src/identity/keys.ts'
import { certificatesToPem } from '../../src/identity/pem.ts'
import { refusalReason } from '../../src/identity/refusal.ts'
import { RandomX509 } from '../support/random-x509.ts'
import { temporaryDir } from './fixtures.ts'
import { opensslMissing } from './openssl.ts'

/* Three readers of X.509 that share nothing but the standard: what ours accepts the others accept, and read the same. */

const isFull = process.env['NSM_TEST_X509'] === 'all'
const count = isFull ? 10_000 : 4_000
/** Requests that the openssl program reads too, one process each. */
const programCount = isFull ? count : 300
const inAll = isFull ? '' : ', 10,000 with NSM_TEST_X509=all'
const seed = 20_261_121

/** What a reader says of a certificate, in one shape. */
interface Read {
  readonly uris: readonly string[]
  readonly isCa: boolean
  readonly pathLength: number | undefined
  readonly notBefore: number
  readonly notAfter: number
  /** digitalSignature, keyCertSign, cRLSign; undefined without the extension. */
  readonly uses: readonly boolean[] | undefined
}

/** Half of them as they were written, half with some bytes changed. */
function batch(
  count: number,
  make: (from: RandomX509) => Uint8Array,
): { readonly der: Uint8Array; readonly isWhole: boolean }[] {
  const from = new RandomX509(seed)
  return Array.from({ length: count }, (_, i) => {
    const der = make(from)
    return i % 2 === 0 ? { der, isWhole: true } : { der: from.mutated(der), isWhole: false }
  })
}

/** What `read` gives, or the reason why it does not. */
function readOr<T>(read: () => T): T | string {
  try {
    return read()
  } catch (error) {
    return refusalReason(error) ?? `no reason: ${error}`
  }
}

describe(`${count} random certificates, half of them with changed bytes${inAll}`, () => {
  const accepted: { readonly der: Uint8Array; readonly read: Certificate }[] = []

  test('are read here and by @peculiar/x509 alike, or refused here with a reason', () => {
    const reasons = new Set<string>()
    let opaque = 0
    for (const { der, isWhole } of batch(count, (from) => from.certificate())) {
      const read = readOr(() => readCertificate(der))
      if (typeof read === 'string') {
        expect(isWhole, read).toBe(false)
        reasons.add(read)
        continue
      }
      accepted.push({ der, read })
      const theirs = readOr(() => ofPeculiar(der))
      // It also opens what nobody asked for: curves of keys, extensions of other kinds. Openssl has the last word there.
      if (typeof theirs === 'string' && !isWhole) opaque++
      else if (!isDeepStrictEqual(ofOurs(read), theirs)) {
        expect(ofOurs(read), Buffer.from(der).toString('hex')).toEqual(theirs)
      }
    }
    expect([...reasons]).toEqual(['CERTIFICATE_INVALID'])
    expect(opaque / count).toBeLessThan(0.005)
    expect(accepted.length).toBeGreaterThan(count / 2)
  })

  test.skipIf(opensslMissing !== '')(`are read here and by the openssl program alike ${opensslMissing}`, () => {
    const pem = join(temporaryDir(), 'all.pem')
    writeFileSync(pem, certificatesToPem(accepted.map(({ der }) => der)))
    const args = ['storeutl', '-noout', '-text', '-certs', pem]
    const text = execFileSync('openssl', args, {
      encoding: 'utf8',
      maxBuffer: 2 ** 30,
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    const theirs = text.split(/^\d+: Certificate$/m).slice(1)
    expect(theirs).toHaveLength(accepted.length)
    for (const [i, { der, read }] of accepted.entries()) {
      const plain = read.uris.every((uri) => /^[a-z0-9:/.]+$/.test(uri))
      const ours = ofOurs(read)
      expect(ofOpenssl(theirs[i] ?? ''), Buffer.from(der).toString('hex')).toEqual(
        plain ? ours : { ...ours, uris: expect.anything() },
      )
    }
  })
})

describe(`${count} random certificate requests, half of them with changed bytes${inAll}`, () => {
  const all = batch(count, (from) => from.request()).map((one) => ({
    ...one,
    key: readOr(() => spkiOf(verifyCsr(one.der).publicKey)),
  }))

  test('are read here and by @peculiar/x509 alike, or refused here with a reason', () => {
    for (const { der, isWhole, key } of all) {
      if (typeof key === 'string') {
        expect([isWhole, key]).toEqual([false, 'CSR_INVALID'])
        continue
      }
      const theirs = new x509.Pkcs10CertificateRequest(Buffer.from(der))
      expect(Buffer.from(theirs.publicKey.rawData).equals(key)).toBe(true)
    }
  })

  test.skipIf(opensslMissing !== '')(
    `that are accepted here verify with the openssl program, ${programCount} of them ${opensslMissing}`,
    () => {
      const dir = join(temporaryDir(), 'requests')
      mkdirSync(dir)
      const accepted = all.filter(({ key }) => typeof key !== 'string').slice(0, programCount)
      for (const [i, { der }] of accepted.entries()) writeFileSync(join(dir, `${i}.der`), der)
      const loop =
        'cd "$1" && for f in *.der; do openssl req -inform DER -in "$f" -noout -verify 2>&1 | grep -c OK; done'
      const { stdout } = spawnSync('sh', ['-c', loop, 'sh', dir], { encoding: 'utf8', maxBuffer: 2 ** 26 })
      expect(stdout.trim().split('\n')).toEqual(accepted.map(() => '1'))
    },
    300_000,
  )
})

// Their insides say nothing of an identity; ours does not look there.
for (const id of ['2.5.29.14', '2.5.29.37']) x509.ExtensionFactory.register(id, x509.Extension)

function ofOurs({ uris, isCa, pathLength, notBeforeMs, notAfterMs, keyUsage }: Certificate): Read {
  const uses = keyUsage && [keyUsage.digitalSignature, keyUsage.certSign, keyUsage.crlSign]
  return { uris, isCa, pathLength, notBefore: notBeforeMs, notAfter: notAfterMs, uses }
}

function ofPeculiar(der: Uint8Array): Read {
  const read = new x509.X509Certificate(Buffer.from(der))
  const names = read.getExtension(x509.SubjectAlternativeNameExtension)?.names.items ?? []
  const constraints = read.getExtension(x509.BasicConstraintsExtension)
  const usages = read.getExtension(x509.KeyUsagesExtension)?.usages
  const { digitalSignature, keyCertSign, cRLSign } = x509.KeyUsageFlags
  return {
    uris: names.filter(({ type }) => type === 'url').map(({ value }) => value),
    isCa: constraints?.ca ?? false,
    pathLength: constraints?.pathLength,
    notBefore: read.notBefore.getTime(),
    notAfter: read.notAfter.getTime(),
    uses:
      usages === undefined ? undefined : [digitalSignature, keyCertSign, cRLSign].map((bit) => (usages & bit) !== 0),
  }
}

function ofOpenssl(text: string): Read {
  const below = (title: string) => new RegExp(`X509v3 ${title}:[^\\n]*\\n\\s+([^\\n]*)`).exec(text)?.[1]
  const time = (title: string) => Date.parse(new RegExp(`Not ${title}\\s*: (.*)`).exec(text)?.[1] ?? '')
  const constraints = below('Basic Constraints') ?? ''
  const usage = below('Key Usage')
  const names = below('Subject Alternative Name')?.split(', ') ?? []
  const length = /pathlen:(\d+)/.exec(constraints)?.[1]
  return {
    uris: names.filter((name) => name.startsWith('URI:')).map((name) => name.slice(4)),
    isCa: constraints.includes('CA:TRUE'),
    pathLength: length === undefined ? undefined : Number(length),
    notBefore: time('Before'),
    notAfter: time('After'),
    uses:
      usage === undefined
        ? undefined
        : ['Digital Signature', 'Certificate Sign', 'CRL Sign'].map((name) => usage.includes(name)),
  }
}
