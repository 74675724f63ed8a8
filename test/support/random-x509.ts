import { createPublicKey, type KeyObject, sign } from 'node:crypto'
import {
  derBitString,
  derElement,
  derOctetString,
  derOid,
  derSequence,
  derSetOf,
  derText,
  derTime,
  derTrue,
  derUnsigned,
} from '../../src/identity/der-writer.ts'
import { generateKey, spkiOf } from '../../src/identity/keys.ts'
import { ecdsaWithSha256, oid } from '../../src/identity/oids.ts'

/** Numbers in [0, 1) that a seed decides [mulberry32]. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** Makes certificates and requests of every shape that a writer might give them, each well signed. */
export class RandomX509 {
  readonly #next: () => number
  readonly #keys: readonly KeyObject[] = Array.from({ length: 4 }, generateKey)

  constructor(seed: number) {
    this.#next = randomNumbers(seed)
  }

  certificate(): Uint8Array {
    const signed = derSequence(
      derElement(0xa0, derUnsigned(Uint8Array.of(2))),
      derUnsigned(this.#bytes(1 + this.#below(19))),
      ecdsaWithSha256,
      this.#name(),
      derSequence(derTime(this.#time()), derTime(this.#time())),
      this.#name(),
      spkiOf(createPublicKey(this.#key())),
      ...this.#extensionBlock(),
    )
    return this.#signed(signed)
  }

  request(): Uint8Array {
    const key = this.#key()
    const signed = derSequence(
      derUnsigned(Uint8Array.of(0)),
      this.#name(),
      spkiOf(key),
      derElement(0xa0, ...this.#attributes()),
    )
    return this.#signed(signed, key)
  }

  /** One to three bytes changed, or some taken away, added or doubled. */
  mutated(der: Uint8Array): Uint8Array {
    const bytes = Buffer.from(der)
    const at = this.#below(bytes.length)
    const kind = this.#below(8)
    if (kind === 0) return bytes.subarray(0, at)
    if (kind === 1) return Buffer.concat([bytes, this.#bytes(1 + this.#below(4))])
    if (kind === 2)
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at, at + 1 + this.#below(8)), bytes.subarray(at)])
    for (let i = this.#below(3); i >= 0; i--) bytes[this.#below(bytes.length)] = this.#below(256)
    return bytes
  }

  #signed(signed: Uint8Array, key = this.#key()): Uint8Array {
    return derSequence(signed, ecdsaWithSha256, derBitString(sign('sha256', signed, key)))
  }

  #extensionBlock(): Uint8Array[] {
    const all = [
      this.#some(0.8, () => this.#extension(oid.subjectAltName, derSequence(...this.#altNames()))),
      this.#some(0.7, () => this.#extension(oid.basicConstraints, derSequence(...this.#constraints()))),
      this.#some(0.7, () => this.#extension(oid.keyUsage, this.#keyUsage())),
      this.#some(0.5, () => this.#extension(oid.extendedKeyUsage, derSequence(oid.serverAuth, oid.clientAuth))),
      this.#some(0.5, () => this.#extension(oid.subjectKeyId, derOctetString(this.#bytes(20)))),
      this.#some(0.2, () =>
        this.#extension(derOid(`1.3.6.1.4.1.99999.${this.#below(99)}`), derOctetString(this.#bytes(9))),
      ),
    ].flat()
    return all.length === 0 ? [] : [derElement(0xa3, derSequence(...all))]
  }

  #extension(id: Uint8Array, value: Uint8Array): Uint8Array {
    return derSequence(id, ...this.#some(0.4, () => derTrue), derOctetString(value))
  }

  #altNames(): Uint8Array[] {
    const uris = Array.from({ length: this.#below(3) }, () => derElement(0x86, Buffer.from(this.#uri())))
    const dns = Array.from({ length: this.#below(3) }, () =>
      derElement(0x82, Buffer.from(`h${this.#below(999)}.example`)),
    )
    const all = [...uris, ...dns, ...this.#some(0.3, () => derElement(0x87, this.#bytes(4)))]
    return all.length === 0 ? [derElement(0x82, Buffer.from('only.example'))] : all
  }

  #uri(): string {
    const scheme = this.#below(5) === 0 ? 'https' : 'spiffe'
    const path = Array.from(
      { length: this.#below(4) },
      () => `/${'workload'.slice(0, 1 + this.#below(8))}${this.#below(99)}`,
    )
    return `${scheme}://td${this.#below(9)}.example${path.join('')}`
  }

  #constraints(): Uint8Array[] {
    if (this.#below(2) === 0) return []
    return [derTrue, ...this.#some(0.5, () => derUnsigned(Uint8Array.of(this.#below(200))))]
  }

  /** [X.690 11.2.2] Named bits end with a bit that is set. */
  #keyUsage(): Uint8Array {
    const bits = 1 + this.#below(255)
    const unused = 31 - Math.clz32(bits & -bits)
    return derBitString(Uint8Array.of(bits), unused)
  }

  #attributes(): Uint8Array[] {
    const challenge = derSequence(derOid('1.2.840.113549.1.9.7'), derSetOf(derText(`c${this.#below(9_999)}`)))
    return this.#some(0.3, () => challenge)
  }

  #name(): Uint8Array {
    const parts = Array.from({ length: this.#below(3) }, () =>
      derSetOf(
        derSequence(
          this.#below(2) === 0 ? oid.commonName : oid.organization,
          derText(`n ${this.#below(9_999)} \u00fc`),
        ),
      ),
    )
    return derSequence(...parts)
  }

  /** Between 1950 and 2090, whole seconds. */
  #time(): number {
    return Math.floor((this.#next() * 140 - 20) * 365.25 * 86_400) * 1_000
  }

  #key(): KeyObject {
    return this.#keys[this.#below(this.#keys.length)] ?? generateKey()
  }

  #some<T>(share: number, make: () => T): T[] {
    return this.#next() < share ? [make()] : []
  }

  #bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => this.#below(256))
  }

  #below(limit: number): number {
    return Math.floor(this.#next() * limit)
  }
}
