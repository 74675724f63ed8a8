/* What gRPC writes into HTTP/2 headers. [gRPC PROTOCOL-HTTP2] */

/** The media type of every call and answer. */
export const grpcMediaType = 'application/grpc'

/** True for `application/grpc`, alone or with a codec or a parameter after it. */
export function isGrpcMediaType(contentType: string | undefined): boolean {
  if (!contentType?.startsWith(grpcMediaType)) return false
  const after = contentType[grpcMediaType.length]
  return after === undefined || after === '+' || after === ';'
}

/** The headers or trailers of a call, with every value of a key, which an object of headers does not tell apart. */
export class CallHeaders {
  readonly #raw: readonly string[]

  /** `raw`: keys in lower case, each followed by its value. */
  constructor(raw: readonly string[]) {
    this.#raw = raw
  }

  /** The last value of a key, as NSM's programs read it. */
  last(key: string): string | undefined {
    for (let i = this.#raw.length - 2; i >= 0; i -= 2) if (this.#raw[i] === key) return this.#raw[i + 1]
    return undefined
  }

  /** The value of a key that is there exactly once. */
  only(key: string): string | undefined {
    let found: string | undefined
    for (let i = 0; i < this.#raw.length; i += 2) {
      if (this.#raw[i] !== key) continue
      if (found !== undefined) return undefined
      found = this.#raw[i + 1]
    }
    return found
  }
}

const unitsMs: Readonly<Record<string, number>> = { H: 3_600_000, M: 60_000, S: 1_000, m: 1, u: 1e-3, n: 1e-6 }

/** The value of `grpc-timeout` in milliseconds; undefined for a text that is none. */
export function parseTimeoutMs(text: string): number | undefined {
  const unitMs = unitsMs[text.slice(-1)]
  const digits = text.slice(0, -1)
  return unitMs !== undefined && /^\d{1,8}$/.test(digits) ? Number(digits) * unitMs : undefined
}

/** A time as the value of `grpc-timeout`, which has eight digits at most: never shorter, and 0 once it has passed. */
export function timeoutText(ms: number): string {
  const whole = Math.max(0, Math.ceil(ms))
  return whole < 1e8 ? `${whole}m` : `${Math.min(Math.ceil(whole / 1_000), 1e8 - 1)}S`
}

/** A text as the value of `grpc-message`: UTF-8, all but printable ASCII and the percent sign itself escaped. */
export function percentEncode(text: string): string {
  if (!/[^ -$&-~]/.test(text)) return text
  let encoded = ''
  for (const byte of Buffer.from(text)) {
    const isPlain = byte >= 0x20 && byte <= 0x7e && byte !== 0x25
    encoded += isPlain ? String.fromCharCode(byte) : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`
  }
  return encoded
}

/** The text that a value of `grpc-message` stands for; what is not escaped as it should be stays as it is. */
export function percentDecode(value: string): string {
  if (!value.includes('%')) return value
  const bytes = value.replace(/%([0-9A-Fa-f]{2})/g, (_escaped, hex: string) => String.fromCharCode(Number(`0x${hex}`)))
  return Buffer.from(bytes, 'latin1').toString()
}
