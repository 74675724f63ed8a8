/** BLAKE2s of any output length, with or without a key [RFC 7693]: Node has it without a key only, and mac1 needs one. */
export function blake2s(
  input: Uint8Array,
  options: { readonly key?: Uint8Array; readonly bytes?: number } = {},
): Buffer {
  const { key = new Uint8Array(), bytes = 32 } = options
  const state = Uint32Array.from(initial)
  state[0] = (state[0] ?? 0) ^ 0x0101_0000 ^ (key.length << 8) ^ bytes
  const padded = key.length > 0 ? Buffer.concat([key, Buffer.alloc(64 - key.length), input]) : Buffer.from(input)
  const blocks = Math.max(1, Math.ceil(padded.length / 64))
  for (let i = 0; i < blocks; i++) {
    const block = Buffer.alloc(64)
    padded.copy(block, 0, 64 * i, 64 * (i + 1))
    const isLast = i === blocks - 1
    compress(state, block, { count: isLast ? padded.length : 64 * (i + 1), isLast })
  }
  const out = Buffer.alloc(32)
  for (const [i, word] of state.entries()) out.writeUInt32LE(word, 4 * i)
  return out.subarray(0, bytes)
}

function compress(state: Uint32Array, block: Buffer, { count, isLast }: { count: number; isLast: boolean }): void {
  const m = Array.from({ length: 16 }, (_, i) => block.readUInt32LE(4 * i))
  const v = Uint32Array.from([...state, ...initial])
  v[12] = (v[12] ?? 0) ^ count
  if (isLast) v[14] = ~(v[14] ?? 0)
  const at = (i: number) => v[i] ?? 0
  const mix = ([a, b, c, d]: readonly [number, number, number, number], x: number, y: number) => {
    for (const [word, first, second] of [
      [x, 16, 12],
      [y, 8, 7],
    ] as const) {
      v[a] = at(a) + at(b) + word
      v[d] = rotate(at(d) ^ at(a), first)
      v[c] = at(c) + at(d)
      v[b] = rotate(at(b) ^ at(c), second)
    }
  }
  for (const round of sigma) {
    const word = (i: number) => m[Number.parseInt(round[i] ?? '0', 16)] ?? 0
    for (const [i, quarter] of quarters.entries()) mix(quarter, word(2 * i), word(2 * i + 1))
  }
  for (let i = 0; i < 8; i++) state[i] = (state[i] ?? 0) ^ at(i) ^ at(i + 8)
}

const rotate = (word: number, by: number) => ((word >>> by) | (word << (32 - by))) >>> 0

const initial = [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19]
const quarters = [
  [0, 4, 8, 12],
  [1, 5, 9, 13],
  [2, 6, 10, 14],
  [3, 7, 11, 15],
  [0, 5, 10, 15],
  [1, 6, 11, 12],
  [2, 7, 8, 13],
  [3, 4, 9, 14],
] as const
/** [RFC 7693 2.7], a hexadecimal digit for each word. */
const sigma = [
  '0123456789abcdef',
  'ea489fd61c02b753',
  'b8c052fdae367194',
  '7931dcbe265a40f8',
  '905724afe1bc683d',
  '2c6a0b834d75fe19',
  'c51fed4a0763928b',
  'db7ec13950f4862a',
  '6fe9b308c2d714a5',
  'a2847615fb9e3cd0',
]
