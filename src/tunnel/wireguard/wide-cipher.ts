import { setFlagsFromString } from 'node:v8'

/* V8 can make one 256-bit operation of two equal 128-bit ones that lie side by side ("revectorization", x86-64 with AVX2).
 * It is an experiment of V8's and off by default, so it gets only the cipher's two loops, a module of 7 KB without memory
 * of its own, and nobody uses that before its answers were compared (see self-test.ts). */

/** Where the engine carries the module. */
const section = 'cipher-wide'
/** Set while the module is compiled: pairs are made, by the optimising compiler, before the first call. */
const flags = ['experimental-wasm-revectorize', 'no-liftoff', 'no-wasm-lazy-compilation'] as const
/** Major versions of V8 that know these flags, and with which this was tried; others would complain about them. */
const knownMajors = [13, 14]

/**
 * Compiles the cipher's loops for 256-bit vectors; some 10 ms.
 *
 * @returns undefined where V8 or the processor makes no pairs: the engine's own loops are faster then
 */
export function compileWideCipher(engine: WebAssembly.Module): WebAssembly.Module | undefined {
  const [bytes] = WebAssembly.Module.customSections(engine, section)
  const major = Number(process.versions.v8.split('.')[0])
  if (!bytes || process.arch !== 'x64' || !knownMajors.includes(major)) return undefined
  const compiled = withFlags(() => new WebAssembly.Module(bytes))
  return makesPairs(compiled) ? compiled : undefined
}

function withFlags<T>(act: () => T): T {
  for (const flag of flags) setFlagsFromString(`--${flag}`)
  try {
    return act()
  } finally {
    for (const flag of flags) setFlagsFromString(flag.startsWith('no-') ? `--${flag.slice(3)}` : `--no-${flag}`)
  }
}

/** Ours: eight blocks take nearly the time of four where pairs are made, and twice that where not. */
const pairedRatioMax = 1.5
/** Ours: rounds of some 40 us, of which the fastest counts. */
const rounds = 16
const callsPerRound = 200

function makesPairs(wideCipher: WebAssembly.Module): boolean {
  const memory = new WebAssembly.Memory({ initial: 1 })
  const { rounds8, rounds4 } = new WebAssembly.Instance(wideCipher, { env: { memory } }).exports
  if (typeof rounds8 !== 'function' || typeof rounds4 !== 'function') return false
  const eight: number[] = []
  const four: number[] = []
  for (let round = 0; round < rounds; round++) {
    eight.push(timed(() => rounds8(0, 1_024)))
    four.push(timed(() => rounds4(0, 1_024)))
  }
  return Math.min(...eight) < pairedRatioMax * Math.min(...four)
}

function timed(act: () => void): number {
  const before = process.hrtime.bigint()
  for (let call = 0; call < callsPerRound; call++) act()
  return Number(process.hrtime.bigint() - before)
}
