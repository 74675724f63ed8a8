import { type Certificate, readCertificate } from './certificate.ts'

/* The peers of one authority all send the same signer above their own certificate. It is read, and a root's signature on it
 * checked, for the first of them; its times and uses are looked at for each. */

/** Ours: an authority has one or two signers at a time; these are those of some dozen trust domains, 2 KB each. */
const signersMax = 64

/** By their bytes; only what a root signed comes in, so nobody else can fill it. */
const known = new Map<string, Certificate>()
const rootOfKnown = new WeakMap<Certificate, Certificate>()

/** As `readCertificate`; the same object as before for a known signer. */
export function readSigner(der: Uint8Array): Certificate {
  return known.get(bytesOf(der)) ?? readCertificate(der)
}

/** True when the root's signature on this signer was good before. */
export function isKnownSigner(signer: Certificate, root: Certificate): boolean {
  return rootOfKnown.get(signer) === root
}

/** Keeps a signer whose signature by the root was checked; the oldest is forgotten for one too many. */
export function rememberSigner(signer: Certificate, root: Certificate): void {
  if (isKnownSigner(signer, root)) return
  rootOfKnown.set(signer, root)
  known.set(bytesOf(signer.der), signer)
  const [oldest] = known.keys()
  if (known.size > signersMax && oldest !== undefined) known.delete(oldest)
}

function bytesOf(der: Uint8Array): string {
  return Buffer.from(der.buffer, der.byteOffset, der.length).toString('latin1')
}
