import { createPublicKey, type KeyObject } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { type Clock, systemClock } from '../../src/base/clock.ts'
import { NsmError } from '../../src/base/errors.ts'
import { type Authority, createAuthority } from '../../src/identity/ca.ts'
import { type CertificateTemplate, type Issuer, writeCertificate } from '../../src/identity/certificate-writer.ts'
import { generateKey } from '../../src/identity/keys.ts'
import { type RefusalReason, refusalReason } from '../../src/identity/refusal.ts'
import type { IdentityState } from '../../src/identity/source.ts'
import { stateFromIssued } from '../../src/identity/svid.ts'

/** A directory of this test that is gone afterwards. */
export function temporaryDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'nsm-identity-'))
  onTestFinished(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

/** An identity of the authority's domain with a key of its own. */
export function identityOf(
  authority: Authority,
  path: string,
  clock: Clock = systemClock,
  ttlMs = 3_600_000,
): IdentityState {
  const privateKey = generateKey()
  const spiffeId = `spiffe://${authority.trustDomain}${path}`
  const issued = authority.issueForKey({ publicKey: createPublicKey(privateKey), spiffeId, ttlMs })
  return stateFromIssued(issued, privateKey, clock.wallMs())
}

/** An authority in memory. */
export function authorityOf(trustDomain: string, clock: Clock = systemClock): Authority {
  return createAuthority({ trustDomain, clock })
}

/** A self-made signer, so that a test can write any certificate below it. */
export interface Signer extends Issuer {
  readonly der: Uint8Array
}

/** A root of its own, with fields of the template changed at will. */
export function rootSigner(change: Partial<CertificateTemplate> & { readonly name?: string } = {}): Signer {
  const privateKey = generateKey()
  const name = change.name ?? 'test root'
  return {
    name,
    privateKey,
    der: writeCertificate(template(privateKey, { name, pathLength: 1, ...change }), { name, privateKey }),
  }
}

/** A signer below another. */
export function signerBelow(issuer: Signer, change: Partial<CertificateTemplate> = {}): Signer {
  const privateKey = generateKey()
  const name = change.name ?? 'test intermediate'
  return { name, privateKey, der: writeCertificate(template(privateKey, { name, pathLength: 0, ...change }), issuer) }
}

/** A leaf below a signer. */
export function leafBelow(issuer: Signer, change: Partial<CertificateTemplate> = {}) {
  const privateKey = generateKey()
  return { privateKey, der: writeCertificate(template(privateKey, change), issuer) }
}

/** The time of every certificate written here. */
export const testNowMs = Date.UTC(2026, 10, 21, 12)

function template(privateKey: KeyObject, change: Partial<CertificateTemplate>): CertificateTemplate {
  return {
    publicKey: createPublicKey(privateKey),
    spiffeId: 'spiffe://a.example/client',
    notBeforeMs: testNowMs - 60_000,
    notAfterMs: testNowMs + 3_600_000,
    ...change,
  }
}

/** What `body` refuses with: the reason, or the code of an error without one; 'nothing' when it returns. */
export function reasonOf(body: () => unknown): RefusalReason | string {
  try {
    body()
    return 'nothing'
  } catch (error) {
    if (!(error instanceof NsmError)) throw error
    return refusalReason(error) ?? error.code
  }
}

/** As `reasonOf`, for a promise. */
export async function rejectionOf(promise: Promise<unknown>): Promise<RefusalReason | string> {
  const outcome = await promise.then(
    () => () => undefined,
    (error: unknown) => () => {
      throw error
    },
  )
  return reasonOf(outcome)
}
