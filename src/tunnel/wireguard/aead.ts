import { controlAt, readLayout } from './engine-layout.ts'
import { type EngineCode, instantiate } from './instance.ts'
import { generatePrivateKey, keyBytes } from './keys.ts'

/** One ChaCha20-Poly1305 message [RFC 8439 2.8]; text up to 65,535 bytes, additional data up to 4,000. */
export interface AeadInput {
  readonly key: Uint8Array
  readonly nonce: Uint8Array
  readonly additional?: Uint8Array
  readonly text: Uint8Array
}

/** The engine's cipher by itself, to check it against known answers. */
export interface Aead {
  /** Ciphertext and tag. */
  seal(input: AeadInput): Uint8Array
  /** Plaintext, or undefined when the tag is wrong. */
  open(input: AeadInput): Uint8Array | undefined
}

/** Tag of a message [RFC 8439 2.8]. */
const tagBytes = 16

/** Starts an instance of the engine for its cipher alone. */
export function createAead(code: EngineCode): Aead {
  const exports = instantiate(code, { sinceFirstMs: 0 })
  const u8 = new Uint8Array(exports.memory.buffer)
  const keySpace = exports.key_space()
  u8.set(generatePrivateKey(), keySpace)
  const { control } = readLayout(new Uint32Array(exports.memory.buffer), exports.init(1, 1, keySpace))
  const textAt = control + controlAt.text
  const place = (input: AeadInput) => {
    const additional = input.additional ?? new Uint8Array(0)
    u8.set(input.key, control)
    u8.set(input.nonce, control + keyBytes)
    u8.set(additional, control + controlAt.additional)
    u8.set(input.text, textAt)
    return additional.length
  }
  return {
    seal(input) {
      const bytes = input.text.length + tagBytes
      exports.aead_seal(place(input), bytes)
      return u8.slice(textAt, textAt + bytes)
    },
    open(input) {
      const good = exports.aead_open(place(input), input.text.length) === 1
      return good ? u8.slice(textAt, textAt + input.text.length - tagBytes) : undefined
    },
  }
}
