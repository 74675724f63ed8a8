/* [RFC 7541 5.2, appendix B] The code is canonical: its lengths say it all. Symbols of one length are in order. */

/** Bits of the code of each symbol, as runs of symbols; 256, which ends a string and is never sent, is left out. */
const symbolsByBits: readonly (readonly [bits: number, symbols: readonly number[]])[] = [
  [5, [48, 49, 50, 97, 99, 101, 105, 111, 115, 116]],
  [
    6,
    [32, 37, 45, 46, 47, 51, 52, 53, 54, 55, 56, 57, 61, 65, 95, 98, 100, 102, 103, 104, 108, 109, 110, 112, 114, 117],
  ],
  [
    7,
    [
      58, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 89, 106, 107, 113,
      118, 119, 120, 121, 122,
    ],
  ],
  [8, [38, 42, 44, 59, 88, 90]],
  [10, [33, 34, 40, 41, 63]],
  [11, [39, 43, 124]],
  [12, [35, 62]],
  [13, [0, 36, 64, 91, 93, 126]],
  [14, [94, 125]],
  [15, [60, 96, 123]],
  [19, [92, 195, 208]],
  [20, [128, 130, 131, 162, 184, 194, 224, 226]],
  [21, [153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230]],
  [
    22,
    [
      129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187, 189, 190, 196, 198,
      228, 232, 233,
    ],
  ],
  [
    23,
    [
      1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166, 168, 174, 175, 180, 182,
      183, 188, 191, 197, 231, 239,
    ],
  ],
  [24, [9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237]],
  [25, [199, 207, 234, 235]],
  [26, [192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255]],
  [27, [203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253, 254]],
  [
    28,
    [2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31, 127, 220, 249],
  ],
  [30, [10, 13, 22]],
]

/** Decodes a string of the code; undefined for bytes that are none. */
export function decodeHuffman(bytes: Buffer, start: number, end: number): string | undefined {
  const text = Buffer.allocUnsafe(((end - start) * 8) / shortestBits + 1)
  let length = 0
  let node = 0
  let held = 0
  let heldBits = 0
  for (let at = start; at < end; at++) {
    held = ((held << 8) | (bytes[at] ?? 0)) & 0xffff
    heldBits += 8
    while (heldBits >= 8) {
      const next = nodes[node * 256 + ((held >>> (heldBits - 8)) & 0xff)] ?? 0
      if (next === 0) return undefined
      if (next < leaf) {
        node = next
        heldBits -= 8
      } else {
        text[length++] = next & 0xff
        heldBits -= (next >>> 8) & 0xf
        node = 0
      }
    }
  }
  while (heldBits > 0) {
    const next = nodes[node * 256 + ((held << (8 - heldBits)) & 0xff)] ?? 0
    const bits = (next >>> 8) & 0xf
    if (next < leaf || bits > heldBits) break
    text[length++] = next & 0xff
    heldBits -= bits
    node = 0
  }
  const padding = (1 << heldBits) - 1
  return node === 0 && (held & padding) === padding ? text.toString('latin1', 0, length) : undefined
}

const shortestBits = 5
/** An entry from here on is a symbol in its low byte, and above it how many of the 8 bits were its. */
const leaf = 0x8000
/** Tables of 256 entries, by the next 8 bits: a symbol, the next table, or 0 for what is no code. */
const nodes = buildNodes()

function buildNodes(): Uint16Array {
  const built = [new Uint16Array(256)]
  let code = 0
  let codeBits = 0
  for (const [bits, symbols] of symbolsByBits) {
    for (const symbol of symbols) {
      code *= 2 ** (bits - codeBits)
      codeBits = bits
      place(built, { symbol, code, bits })
      code++
    }
  }
  const flat = new Uint16Array(built.length * 256)
  for (const [i, node] of built.entries()) flat.set(node, i * 256)
  return flat
}

function place(built: Uint16Array[], one: { readonly symbol: number; readonly code: number; readonly bits: number }) {
  let node = built[0]
  let left = one.bits
  for (; left > 8; left -= 8) {
    const at = Math.floor(one.code / 2 ** (left - 8)) & 0xff
    if (node && node[at] === 0) node[at] = built.push(new Uint16Array(256)) - 1
    node = built[node?.[at] ?? 0]
  }
  const first = (one.code << (8 - left)) & 0xff
  node?.fill(leaf | (left << 8) | one.symbol, first, first + (1 << (8 - left)))
}
