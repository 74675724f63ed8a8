import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
} from 'node:crypto'
import { generatePrivateKey, publicKeyOf } from '../../../src/tunnel/wireguard/keys.ts'
import { blake2s } from './blake2s.ts'

/* WireGuard's initiator [WG 5.4], written from the paper with nothing of the engine's: it says what an honest peer never would. */

/** How an initiation differs from an honest one. */
export interface InitiationPlan {
  /** Seconds of the TAI64N stamp. */
  readonly seconds?: number
  /** Sent for the ephemeral key; the shared secrets with it are then all zeros. */
  readonly ephemeral?: Uint8Array
}

/** An initiator with a static key of its own. */
export class NoisePeer {
  readonly publicKey: Uint8Array
  readonly #privateKey: Uint8Array = generatePrivateKey()
  readonly #theirs: Uint8Array
  readonly #presharedKey: Uint8Array
  #ephemeral: Uint8Array = new Uint8Array()
  #chain: Buffer = Buffer.alloc(0)
  #hash: Buffer = Buffer.alloc(0)
  #sendKey: Buffer = Buffer.alloc(0)
  #receiveKey: Buffer = Buffer.alloc(0)
  #theirIndex = 0

  constructor(theirs: Uint8Array, presharedKey: Uint8Array = new Uint8Array(32)) {
    this.publicKey = publicKeyOf(this.#privateKey)
    this.#theirs = theirs
    this.#presharedKey = presharedKey
  }

  /** [WG 5.4.2] The first message. */
  initiation({ seconds = 1_700_000_000, ephemeral }: InitiationPlan = {}): Buffer {
    this.#chain = hash(Buffer.from('Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s'))
    this.#hash = hash(hash(this.#chain, Buffer.from('WireGuard v1 zx2c4 Jason@zx2c4.com')), this.#theirs)
    this.#ephemeral = generatePrivateKey()
    const sent = ephemeral ?? publicKeyOf(this.#ephemeral)
    const message = Buffer.alloc(148)
    message.writeUInt32LE(1, 0)
    message.writeUInt32LE(0x1234, 4)
    message.set(sent, 8)
    this.#chain = derive(this.#chain, sent)[0]
    this.#hash = hash(this.#hash, sent)
    const shared = ephemeral ? Buffer.alloc(32) : agree(this.#ephemeral, this.#theirs)
    message.set(this.#sealed(shared, this.publicKey), 40)
    const stamp = Buffer.alloc(12)
    stamp.writeBigUInt64BE(0x4000_0000_0000_000an + BigInt(seconds))
    message.set(this.#sealed(agree(this.#privateKey, this.#theirs), stamp), 88)
    return this.withMac(message)
  }

  /** [WG 5.4.4] The message with the mac1 that belongs to it. */
  withMac(message: Buffer): Buffer {
    const key = hash(Buffer.from('mac1----'), this.#theirs)
    const at = message.length - 32
    blake2s(message.subarray(0, at), { key, bytes: 16 }).copy(message, at)
    return message
  }

  /** [WG 5.4.3] Takes the answer; throws when it is not authentic. */
  complete(response: Buffer): void {
    this.#theirIndex = response.readUInt32LE(4)
    const theirs = response.subarray(12, 44)
    this.#chain = derive(this.#chain, theirs)[0]
    this.#hash = hash(this.#hash, theirs)
    this.#chain = derive(this.#chain, agree(this.#ephemeral, theirs))[0]
    this.#chain = derive(this.#chain, agree(this.#privateKey, theirs))[0]
    const [chain, mixed, key] = derive(this.#chain, this.#presharedKey)
    this.#hash = hash(this.#hash, mixed)
    open({ key, counter: 0n, additional: this.#hash }, response.subarray(44, 60))
    ;[this.#sendKey, this.#receiveKey] = derive(chain, Buffer.alloc(0))
  }

  /** [WG 5.4.6] A data message with anything in it. */
  data(packet: Uint8Array, counter: bigint): Buffer {
    const head = Buffer.alloc(16)
    head.writeUInt32LE(4, 0)
    head.writeUInt32LE(this.#theirIndex, 4)
    head.writeBigUInt64LE(counter, 8)
    return Buffer.concat([head, seal({ key: this.#sendKey, counter, additional: Buffer.alloc(0) }, packet)])
  }

  /** What a data message to us holds, and its counter. */
  opened(message: Buffer): { readonly packet: Buffer; readonly counter: bigint } {
    const counter = message.readBigUInt64LE(8)
    const sealedBy = { key: this.#receiveKey, counter, additional: Buffer.alloc(0) }
    return { packet: open(sealedBy, message.subarray(16)), counter }
  }

  #sealed(shared: Buffer, text: Uint8Array): Buffer {
    const [chain, key] = derive(this.#chain, shared)
    this.#chain = chain
    const sealed = seal({ key, counter: 0n, additional: this.#hash }, text)
    this.#hash = hash(this.#hash, sealed)
    return sealed
  }
}

interface Sealing {
  readonly key: Buffer
  readonly counter: bigint
  readonly additional: Buffer
}

function seal({ key, counter, additional }: Sealing, text: Uint8Array): Buffer {
  const cipher = createCipheriv('chacha20-poly1305', key, nonceOf(counter), { authTagLength: 16 })
  cipher.setAAD(additional, { plaintextLength: text.length })
  return Buffer.concat([cipher.update(text), cipher.final(), cipher.getAuthTag()])
}

function open({ key, counter, additional }: Sealing, sealed: Buffer): Buffer {
  const decipher = createDecipheriv('chacha20-poly1305', key, nonceOf(counter), { authTagLength: 16 })
  decipher.setAAD(additional, { plaintextLength: sealed.length - 16 })
  decipher.setAuthTag(sealed.subarray(-16))
  return Buffer.concat([decipher.update(sealed.subarray(0, -16)), decipher.final()])
}

function nonceOf(counter: bigint): Buffer {
  const nonce = Buffer.alloc(12)
  nonce.writeBigUInt64LE(counter, 4)
  return nonce
}

function hash(...parts: readonly Uint8Array[]): Buffer {
  return createHash('blake2s256').update(Buffer.concat(parts)).digest()
}

/** HKDF over HMAC-BLAKE2s [WG 5.4]: whoever needs fewer leaves the rest. */
function derive(key: Buffer, input: Uint8Array): readonly [Buffer, Buffer, Buffer] {
  const mac = (secret: Buffer, ...parts: readonly Uint8Array[]) =>
    createHmac('blake2s256', secret).update(Buffer.concat(parts)).digest()
  const secret = mac(key, input)
  const first = mac(secret, Buffer.of(1))
  const second = mac(secret, first, Buffer.of(2))
  return [first, second, mac(secret, second, Buffer.of(3))]
}

function agree(privateKey: Uint8Array, publicKey: Uint8Array): Buffer {
  const pkcs8 = Buffer.concat([Buffer.from('302e020100300506032b656e04220420', 'hex'), privateKey])
  const spki = Buffer.concat([Buffer.from('302a300506032b656e032100', 'hex'), publicKey])
  return diffieHellman({
    privateKey: createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' }),
    publicKey: createPublicKey({ key: spki, format: 'der', type: 'spki' }),
  })
}
