import { randomFillSync } from 'node:crypto'

/** Ours: random bytes drawn at once; one call of the generator per 1024 numbers. */
const stock = new Uint16Array(1024)
let used = stock.length

/** A number of 16 random bits of the operating system's generator. [RFC 5452 9.2] */
export function random16(): number {
  if (used === stock.length) {
    randomFillSync(stock)
    used = 0
  }
  const value = stock[used] ?? 0
  stock[used] = 0
  used++
  return value
}
