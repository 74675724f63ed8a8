import { random16 } from './random-id.ts'
import { headerBytes, lowerByte, read16 } from './wire.ts'

/** Ours: so many echoes of our spelling prove that an upstream keeps it. */
const proofEchoes = 8
/** Ours: so many other spellings in a row from one that kept it before: it is another server now, and not a guesser. */
const doubtsMax = 3
/** Ours: an upstream that does not keep the spelling is not tried again so long. */
const withoutMs = 15 * 60_000

/**
 * Random upper and lower case in the names we ask for: more bits for a guesser to hit, towards upstreams that echo them.
 * One that does not is asked in the client's spelling. [draft-vixie-dnsext-dns0x20]
 */
export class NameCase {
  #echoes = 0
  #doubts = 0
  #withoutUntilMs = 0

  /** Turns the case of the question's letters at random, in place. `questionEnd` is the offset behind the question. */
  mix(message: Uint8Array, questionEnd: number, nowMs: number): void {
    if (nowMs < this.#withoutUntilMs) return
    let bits = 0
    let left = 0
    for (let at = headerBytes; at < questionEnd - 4; at++) {
      const lower = lowerByte(message[at] ?? 0)
      if (lower < 0x61 || lower > 0x7a) continue
      if (left === 0) {
        bits = random16()
        left = 16
      }
      message[at] = lower ^ ((bits & 1) << 5)
      bits >>= 1
      left--
    }
  }

  /** False for a reply in another spelling from an upstream that is known to echo ours: it is forged. */
  accepts(reply: Uint8Array, sent: Uint8Array, at: { readonly questionEnd: number; readonly nowMs: number }): boolean {
    if (sameSpelling(reply, sent, at.questionEnd)) {
      this.#echoes++
      this.#doubts = 0
      return true
    }
    this.#doubts++
    if (this.#echoes >= proofEchoes && this.#doubts < doubtsMax) return false
    this.#echoes = 0
    this.#doubts = 0
    this.#withoutUntilMs = at.nowMs + withoutMs
    return true
  }
}

/** True for the same question byte for byte; a reply without a question says nothing about the spelling. */
function sameSpelling(reply: Uint8Array, sent: Uint8Array, questionEnd: number): boolean {
  if (reply.length < questionEnd || read16(reply, 4) !== 1) return true
  for (let at = headerBytes; at < questionEnd; at++) if (reply[at] !== sent[at]) return false
  return true
}
