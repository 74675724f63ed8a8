import { createCipheriv, randomBytes, randomInt } from 'node:crypto'
import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type AeadInput, createAead } from '../../../src/tunnel/wireguard/aead.ts'
import { selfTest, testedWideCipher } from '../../../src/tunnel/wireguard/self-test.ts'
import { compileWideCipher } from '../../../src/tunnel/wireguard/wide-cipher.ts'
import { engineModule } from './wire.ts'

interface Vector {
  readonly key: string
  readonly nonce: string
  readonly additional: string
  readonly plaintext: string
  readonly ciphertext: string
  readonly tag: string
}

function readVectors(name: string) {
  return JSON.parse(readFileSync(new URL(`../../vectors/${name}.json`, import.meta.url), 'utf8'))
}
const published: readonly (Vector & { readonly source: string })[] = readVectors('rfc8439/aead')
const wycheproof: { readonly vectors: readonly (Vector & { id: number; what: string; valid: boolean })[] } =
  readVectors('wycheproof/chacha20-poly1305')
const hex = (text: string) => Buffer.from(text, 'hex')

/** Node's cipher as the reference. */
function reference(input: AeadInput): Buffer {
  const cipher = createCipheriv('chacha20-poly1305', input.key, input.nonce, { authTagLength: 16 })
  if (input.additional) cipher.setAAD(input.additional, { plaintextLength: input.text.length })
  return Buffer.concat([cipher.update(input.text), cipher.final(), cipher.getAuthTag()])
}

const inputOf = (vector: Vector, text: string) => ({
  key: hex(vector.key),
  nonce: hex(vector.nonce),
  additional: hex(vector.additional),
  text: hex(text),
})

const wideCipher = compileWideCipher(engineModule)
const ciphers = [
  { name: 'plain cipher', code: { module: engineModule }, present: true },
  {
    name: 'wide cipher (needs V8 and a processor that pair vectors)',
    code: { module: engineModule, wideCipher },
    present: wideCipher !== undefined,
  },
]

describe.each(ciphers)('$name', ({ code, present }) => {
  const aead = createAead(code)

  /** Seals, compares, opens, and tries a flipped bit. */
  function check(input: AeadInput): void {
    const sealed = Buffer.from(aead.seal(input))
    expect(sealed.equals(reference(input))).toBe(true)
    expect(Buffer.from(aead.open({ ...input, text: sealed }) ?? 'forged').equals(input.text)).toBe(true)
    const at = randomInt(sealed.length * 8)
    sealed[at >> 3] = (sealed[at >> 3] ?? 0) ^ (1 << (at & 7))
    expect(aead.open({ ...input, text: sealed })).toBeUndefined()
  }

  test.skipIf(!present).each(published)('gives the published answer of $source', (vector) => {
    const sealed = Buffer.from(aead.seal(inputOf(vector, vector.plaintext)))
    expect(sealed.toString('hex')).toBe(vector.ciphertext + vector.tag)
    expect(aead.open({ ...inputOf(vector, ''), text: sealed })).toEqual(Uint8Array.from(hex(vector.plaintext)))
  })

  test.skipIf(!present)('opens what Wycheproof calls valid and refuses the rest', () => {
    expect(wycheproof.vectors.length).toBeGreaterThan(250)
    for (const vector of wycheproof.vectors) {
      const opened = aead.open(inputOf(vector, vector.ciphertext + vector.tag))
      const text = opened && Buffer.from(opened).toString('hex')
      expect({ id: vector.id, text }).toEqual({ id: vector.id, text: vector.valid ? vector.plaintext : undefined })
      if (!vector.valid) continue
      const sealed = Buffer.from(aead.seal(inputOf(vector, vector.plaintext))).toString('hex')
      expect({ id: vector.id, sealed }).toEqual({ id: vector.id, sealed: vector.ciphertext + vector.tag })
    }
  })

  test.skipIf(!present)('agrees with Node for every length from 0 to 1,600', () => {
    for (let length = 0; length <= 1_600; length++) {
      check({ key: randomBytes(32), nonce: randomBytes(12), text: randomBytes(length) })
    }
  })

  test.skipIf(!present)('agrees with Node for 10,000 random lengths up to 9,000', () => {
    for (let round = 0; round < 10_000; round++) {
      const input = { key: randomBytes(32), nonce: randomBytes(12), text: randomBytes(randomInt(9_001)) }
      expect(Buffer.compare(aead.seal(input), reference(input))).toBe(0)
    }
  })

  test.skipIf(!present)('agrees with Node for any length and additional data', () => {
    const bytes = (maxLength: number) => fc.uint8Array({ maxLength })
    const word = (length: number) => fc.uint8Array({ minLength: length, maxLength: length })
    fc.assert(
      fc.property(word(32), word(12), bytes(80), bytes(3_000), (key, nonce, additional, text) => {
        check({ key, nonce, additional, text })
      }),
      { numRuns: 500 },
    )
  })

  test.skipIf(!present).each([0xff, 0x00, 0x7f, 0x80, 0xfe, 0x01, 0xfb])(
    'agrees with Node when every ciphertext byte is %i, where limbs are at their ends',
    (pattern) => {
      for (const length of [192, 448, 639, 640, 641, 767, 768, 1_408, 1_420, 1_424, 9_000, 60_000]) {
        const [key, nonce] = [randomBytes(32), randomBytes(12)]
        const stream = reference({ key, nonce, text: Buffer.alloc(length) }).subarray(0, length)
        check({ key, nonce, text: stream.map((byte) => byte ^ pattern) })
      }
    },
  )

  test.skipIf(!present)('passes the self-test on this machine', () => {
    expect(selfTest(code)).toBe(true)
  })
})

const emptyModule = new WebAssembly.Module(Uint8Array.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]))

test('self-test fails for a module that is not the engine', () => {
  expect(selfTest({ module: emptyModule })).toBe(false)
})

test('self-test fails for loops that compute something else', () => {
  expect(selfTest({ module: engineModule, wideCipher: silentKernels() })).toBe(false)
})

test('wide cipher is used only if it was found right', () => {
  expect(testedWideCipher(engineModule) instanceof WebAssembly.Module).toBe(wideCipher !== undefined)
})

test('wide cipher is absent from a module that carries none', () => {
  expect(compileWideCipher(emptyModule)).toBeUndefined()
})

test('wide cipher has neither memory nor data of its own, and without a stack it would trap if it used one', () => {
  const [bytes] = WebAssembly.Module.customSections(engineModule, 'cipher-wide')
  const module = new WebAssembly.Module(bytes ?? new ArrayBuffer(0))
  expect(WebAssembly.Module.imports(module)).toEqual([{ module: 'env', name: 'memory', kind: 'memory' }])
  expect(WebAssembly.Module.exports(module).map(({ name }) => name)).toEqual(['rounds8', 'poly8', 'rounds4'])
  const dataSection = 11 // [WebAssembly 2.0, 5.5.2]
  expect(sectionsOf(new Uint8Array(bytes ?? []))).not.toContain(dataSection)
})

function sectionsOf(bytes: Uint8Array): number[] {
  const found: number[] = []
  for (let at = 8; at < bytes.length; ) {
    found.push(bytes[at++] ?? 0)
    let size = 0
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++] ?? 0
      size |= (byte & 0x7f) << shift
      if (byte < 0x80) break
    }
    at += size
  }
  return found
}

/** A module with `rounds8` and `poly8` of the right types that do nothing. */
function silentKernels(): WebAssembly.Module {
  const name = (text: string) => [text.length, ...Buffer.from(text)]
  const i32 = 0x7f
  const types = [2, 0x60, 2, i32, i32, 0, 0x60, 4, i32, i32, i32, i32, 0]
  const imports = [1, ...name('env'), ...name('memory'), 2, 0, 1]
  const exported = [2, ...name('rounds8'), 0, 0, ...name('poly8'), 0, 1]
  const section = (id: number, body: readonly number[]) => [id, body.length, ...body]
  const parts = [
    section(1, types),
    section(2, imports),
    section(3, [2, 0, 1]),
    section(7, exported),
    section(10, [2, 2, 0, 0x0b, 2, 0, 0x0b]),
  ]
  return new WebAssembly.Module(Uint8Array.from([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, ...parts.flat()]))
}
