import { type Aead, createAead } from './aead.ts'
import type { EngineCode } from './instance.ts'
import { compileWideCipher } from './wide-cipher.ts'

/** [RFC 8439 2.8.2]: key, nonce and additional data of all known answers here. */
const known = {
  key: Buffer.from('808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f', 'hex'),
  nonce: Buffer.from('070000004041424344454647', 'hex'),
  additional: Buffer.from('50515253c0c1c2c3c4c5c6c7', 'hex'),
  text: Buffer.from(
    "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.",
  ),
  tag: '1ae10b594f09e26a7e902ecbd0600691',
} as const

/**
 * Byte i is 7i; the tags are OpenSSL's. The published text and the first of these take four blocks of the stream, the
 * second takes eight at a time and Poly1305 by groups.
 * A tag covers the whole ciphertext, so it is enough to compare.
 */
const longAnswers = [
  { bytes: 192, tag: 'b398ed44005f38d19b06ec407f53224f' },
  { bytes: 1_420, tag: '268e68c3ec4bfa4851d01c118d888cdb' },
] as const

/** Ours: enough rounds for V8 to begin optimising the cipher, at some 10 us each before that. */
const warmRounds = 8

/** Lengths at which both ciphers are compared: every rest of a block, all counts of blocks that packets have, large ones. */
const comparedLengths = [...Array.from({ length: 96 }, (_, i) => i * 17), 4_000, 9_001]

/**
 * Checks the cipher against known answers. Takes 2 to 5 ms; the machine code it warms up is shared by all instances of
 * the module.
 *
 * @returns false when this machine computes anything wrong: no tunnel may be opened then
 */
export function selfTest(code: EngineCode): boolean {
  return passes(code, (aead) => tagOf(aead.seal(known)) === known.tag && longAnswers.every((one) => holds(aead, one)))
}

/**
 * Gives the wide cipher if this machine has one, and it gives the known answers and those of the engine's own cipher.
 * Takes 15 to 20 ms.
 */
export function testedWideCipher(module: WebAssembly.Module): WebAssembly.Module | undefined {
  const wideCipher = compileWideCipher(module)
  const plain = createAead({ module })
  const agrees = (wide: Aead) => comparedLengths.every((bytes) => sameAnswers(plain, wide, bytes))
  return wideCipher && selfTest({ module, wideCipher }) && passes({ module, wideCipher }, agrees)
    ? wideCipher
    : undefined
}

function passes(code: EngineCode, test: (aead: Aead) => boolean): boolean {
  try {
    return test(createAead(code))
  } catch {
    return false
  }
}

function sameAnswers(plain: Aead, wide: Aead, bytes: number): boolean {
  const input = { key: known.key, nonce: known.nonce, text: textOf(bytes) }
  const sealed = wide.seal(input)
  if (Buffer.compare(sealed, plain.seal(input)) !== 0) return false
  const opened = wide.open({ ...input, text: sealed })
  return opened !== undefined && Buffer.compare(opened, input.text) === 0
}

/** A view of the one text of these tests: byte i is 7i. */
function textOf(bytes: number): Uint8Array {
  longText ??= Uint8Array.from({ length: Math.max(...comparedLengths) }, (_, i) => (i * 7) & 0xff)
  return longText.subarray(0, bytes)
}

let longText: Uint8Array | undefined

function holds(aead: Aead, { bytes, tag }: { readonly bytes: number; readonly tag: string }): boolean {
  const { key, nonce } = known
  const text = textOf(bytes)
  for (let round = 0; round < warmRounds; round++) {
    const sealed = aead.seal({ key, nonce, text })
    const opened = aead.open({ key, nonce, text: sealed })
    if (tagOf(sealed) !== tag || !opened || Buffer.compare(opened, text) !== 0) return false
    sealed[round] = (sealed[round] ?? 0) ^ 1
    if (aead.open({ key, nonce, text: sealed })) return false
  }
  return true
}

function tagOf(sealed: Uint8Array): string {
  return Buffer.from(sealed.subarray(-16)).toString('hex')
}
