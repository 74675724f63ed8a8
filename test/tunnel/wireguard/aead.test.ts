import { createCipheriv, randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type AeadInput, createAead } from '../../../src/tunnel/wireguard/aead.ts'
import { selfTest } from '../../../src/tunnel/wireguard/self-test.ts'
import { engineModule } from './wire.ts'

interface Vector {
  readonly source: string
  readonly key: string
  readonly nonce: string
  readonly additional: string
  readonly plaintext: string
  readonly ciphertext: string
  readonly tag: string
}

const vectors: readonly Vector[] = JSON.parse(
  readFileSync(new URL('../../vectors/rfc8439/aead.json', import.meta.url), 'utf8'),
)
const aead = createAead(engineModule)
const hex = (text: string) => Buffer.from(text, 'hex')

/** Node's cipher as the reference. */
function reference(input: AeadInput): Buffer {
  const cipher = createCipheriv('chacha20-poly1305', input.key, input.nonce, { authTagLength: 16 })
  if (input.additional) cipher.setAAD(input.additional, { plaintextLength: input.text.length })
  return Buffer.concat([cipher.update(input.text), cipher.final(), cipher.getAuthTag()])
}

/** Seals, compares, opens, and tries a flipped bit. */
function check(input: AeadInput): void {
  const sealed = Buffer.from(aead.seal(input))
  expect(sealed.equals(reference(input))).toBe(true)
  expect(Buffer.from(aead.open({ ...input, text: sealed }) ?? 'forged').equals(input.text)).toBe(true)
  const bit = sealed.length * 8 * 0.999
  const at = Math.floor(Math.abs(Math.sin(input.text.length)) * bit)
  sealed[at >> 3] = (sealed[at >> 3] ?? 0) ^ (1 << (at & 7))
  expect(aead.open({ ...input, text: sealed })).toBeUndefined()
}

test.each(vectors)('cipher gives the published answer of $source', (vector) => {
  const input = { key: hex(vector.key), nonce: hex(vector.nonce), additional: hex(vector.additional) }
  const sealed = Buffer.from(aead.seal({ ...input, text: hex(vector.plaintext) }))
  expect(sealed.toString('hex')).toBe(vector.ciphertext + vector.tag)
  expect(aead.open({ ...input, text: sealed })).toEqual(Uint8Array.from(hex(vector.plaintext)))
})

test('cipher agrees with Node for every length from 0 to 1,600', () => {
  for (let length = 0; length <= 1_600; length++) {
    check({ key: randomBytes(32), nonce: randomBytes(12), text: randomBytes(length) })
  }
})

test('cipher agrees with Node for any length and additional data', () => {
  const bytes = (maxLength: number) => fc.uint8Array({ maxLength })
  const word = (length: number) => fc.uint8Array({ minLength: length, maxLength: length })
  fc.assert(
    fc.property(word(32), word(12), bytes(80), bytes(3_000), (key, nonce, additional, text) => {
      check({ key, nonce, additional, text })
    }),
    { numRuns: 500 },
  )
})

test.each([0xff, 0x00, 0x7f, 0x80, 0xfe, 0x01, 0xfb])(
  'cipher agrees with Node when every ciphertext byte is %i, where limbs are at their ends',
  (pattern) => {
    for (const length of [192, 193, 255, 256, 320, 1_408, 1_420, 1_424, 9_000, 60_000]) {
      const [key, nonce] = [randomBytes(32), randomBytes(12)]
      const stream = reference({ key, nonce, text: Buffer.alloc(length) }).subarray(0, length)
      check({ key, nonce, text: stream.map((byte) => byte ^ pattern) })
    }
  },
)

test('self-test passes on this machine', () => {
  expect(selfTest(engineModule)).toBe(true)
})

test('self-test fails for a module that is not the engine', () => {
  const empty = new WebAssembly.Module(Uint8Array.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]))
  expect(selfTest(empty)).toBe(false)
})
