import type { KeyObject } from 'node:crypto'
import { readCertificate } from './certificate.ts'
import { isP256, spkiOf, spkiPin } from './keys.ts'
import { refusal } from './refusal.ts'
import type { IdentityState, IssuedSvid, Svid, TrustBundles } from './source.ts'
import { parseSpiffeId } from './spiffe-id.ts'
import { verifyPeer } from './verify.ts'

/** A usable identity from an issued chain and the key it was asked for; throws `IDENTITY` when they do not belong together. */
export function stateFromIssued(issued: IssuedSvid, privateKey: KeyObject, nowMs: number): IdentityState {
  const state = stateFromParts({ chain: issued.chain, privateKey, bundles: issued.bundles, nowMs })
  if (state.svid.spiffeId === issued.spiffeId) return state
  throw refusal('SVID_UNEXPECTED', `the certificate names ${state.svid.spiffeId}, the answer says ${issued.spiffeId}`)
}

/** A usable identity from its parts: verified against its own bundle, key and leaf match; throws `IDENTITY`. */
export function stateFromParts(parts: {
  readonly chain: readonly Uint8Array[]
  readonly privateKey: KeyObject
  readonly bundles: TrustBundles
  readonly nowMs: number
}): IdentityState {
  const { chain, privateKey, bundles, nowMs } = parts
  verifyPeer({ chain, bundles, nowMs })
  return { svid: svidOf(chain, privateKey), bundles }
}

/** An SVID whose key and leaf match, expired or not, whoever signed it; throws `IDENTITY`. */
export function svidOf(chain: readonly Uint8Array[], privateKey: KeyObject): Svid {
  const [leaf] = chain.map(readCertificate)
  const [spiffeId] = leaf?.uris ?? []
  if (!leaf || spiffeId === undefined) throw refusal('SVID_NO_ID', 'the certificate has no URI name')
  if (!isP256(privateKey)) throw refusal('KEY_MISMATCH', 'the private key is not ECDSA P-256', { next: keyNext })
  if (!Buffer.from(leaf.spki).equals(spkiOf(privateKey))) {
    throw refusal('KEY_MISMATCH', `the private key is not the one of ${spiffeId}`, { next: keyNext })
  }
  return { spiffeId, chain, privateKey, notBeforeMs: leaf.notBeforeMs, notAfterMs: leaf.notAfterMs }
}

/** The first root of the own domain is the one that signs: an SVID of another one will not be believed for long. */
export function isOfNewestRoot({ svid, bundles }: IdentityState, nowMs: number): boolean {
  const { trustDomain } = parseSpiffeId(svid.spiffeId)
  const [newest] = bundles.get(trustDomain) ?? []
  if (!newest) return true
  try {
    verifyPeer({ chain: svid.chain, bundles: new Map([[trustDomain, [newest]]]), nowMs })
    return true
  } catch {
    return false
  }
}

/** Whether the SVID rests on a root of the own domain, or on the one of this pin; also when it is expired. */
export function restsOnRoot({ svid, bundles }: IdentityState, pin?: string): boolean {
  const { trustDomain } = parseSpiffeId(svid.spiffeId)
  const roots = (bundles.get(trustDomain) ?? []).filter((root) => pin === undefined || pinOf(root) === pin)
  try {
    verifyPeer({ chain: svid.chain, bundles: new Map([[trustDomain, roots]]), nowMs: svid.notAfterMs - 1 })
    return true
  } catch {
    return false
  }
}

/** The pins of the own domain's roots, that of the one that signs first. */
export function pinsOf({ svid, bundles }: IdentityState): readonly string[] {
  const roots = bundles.get(parseSpiffeId(svid.spiffeId).trustDomain) ?? []
  return roots.map(pinOf)
}

function pinOf(root: Uint8Array): string {
  return spkiPin(readCertificate(root).spki)
}

const keyNext = 'give the ECDSA P-256 key that belongs to the certificate'
