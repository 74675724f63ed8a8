import { createPublicKey, hash, verify } from 'node:crypto'
import { NsmError } from '../../../src/base/errors.ts'

/**
 * Throws `REFUSED` unless the text of a .minisig file is the key's signature of `content`, its trusted comment too; `USAGE` for
 * a key that is none [minisign, file formats].
 */
export function verifyMinisign(content: Buffer, signatureText: string, key: string): void {
  const keyBytes = Buffer.from(key, 'base64')
  if (keyBytes.length !== keyLength || keyBytes.toString('latin1', 0, 2) !== 'Ed') {
    throw new NsmError('USAGE', 'the input key is no public key of minisign', 'give the line that begins with RW')
  }
  const [, line = '', comment = '', global = ''] = signatureText.split(/\r?\n/)
  const signature = Buffer.from(line, 'base64')
  const algorithm = signature.toString('latin1', 0, 2)
  const signed = algorithm === 'ED' ? Buffer.from(hash('blake2b512', content, 'hex'), 'hex') : content
  const isOfKey = signature.length === signatureLength && signature.subarray(2, 10).equals(keyBytes.subarray(2, 10))
  const publicKey = ed25519Key(keyBytes.subarray(10))
  const own = signature.subarray(10)
  const told = Buffer.concat([own, Buffer.from(comment.replace(/^trusted comment: /, ''))])
  const isGood =
    isOfKey &&
    ['ED', 'Ed'].includes(algorithm) &&
    verify(null, signed, publicKey, own) &&
    verify(null, told, publicKey, Buffer.from(global, 'base64'))
  if (!isGood) throw new NsmError('REFUSED', 'SHA256SUMS is not signed by this key', 'nothing of the release was run')
}

/** Algorithm (2), number of the key (8), Ed25519 key (32). */
const keyLength = 42
/** Algorithm (2), number of the key (8), Ed25519 signature (64). */
const signatureLength = 74

/** [RFC 8410 4] What stands before the 32 bytes of an Ed25519 key. */
const spkiPrefix = Buffer.from('302a300506032b6570032100', 'hex')

function ed25519Key(bytes: Buffer) {
  return createPublicKey({ key: Buffer.concat([spkiPrefix, bytes]), format: 'der', type: 'spki' })
}
