import { counterNames } from './counter-names.ts'
import type { EngineExports } from './instance.ts'

/** An array of descriptors in the engine's memory. */
export interface Descriptors {
  /** Byte offset of descriptor 0. */
  readonly offset: number
  readonly capacity: number
}

/** Descriptors whose word 0 points for good to their own slot of `slotBytes`; the host reads into the slots. */
export interface InputRing extends Descriptors {
  readonly slotBytes: number
}

/** Where everything lies in the engine's memory; byte offsets. */
export interface EngineLayout {
  readonly control: number
  readonly received: InputRing
  readonly deviceReads: InputRing
  readonly sends: Descriptors
  readonly deviceWrites: Descriptors
  readonly locals: Descriptors
  readonly result: number
  readonly counters: number
}

/** A running instance and the views of its memory. */
export interface EngineParts {
  readonly exports: EngineExports
  readonly layout: EngineLayout
  readonly u8: Uint8Array
  readonly u32: Uint32Array
}

/** Layout of the control region, the same in wasm/engine/src/abi.rs. */
export const controlAt = {
  key: 0,
  presharedKey: 32,
  endpoint: 64,
  prefixes: 96,
  additional: 64,
  text: 4_096,
  stackPort: 20,
  stackBytes: 64,
} as const
/** Bytes of one address record: family, length, two unused, address. */
export const addressRecordBytes = 20
/** Ours: the control region has 64 KiB for prefixes. */
export const prefixesMax = 3_000

/** Reads the table of 16 words that `init` points to. */
export function readLayout(u32: Uint32Array, table: number): EngineLayout {
  const word = (index: number) => u32[table / 4 + index] ?? 0
  return {
    control: word(0),
    received: { offset: word(1), capacity: word(2), slotBytes: word(3) },
    deviceReads: { offset: word(4), capacity: word(5), slotBytes: word(6) },
    sends: { offset: word(7), capacity: word(8) },
    deviceWrites: { offset: word(9), capacity: word(10) },
    locals: { offset: word(11), capacity: word(12) },
    result: word(13),
    counters: word(14),
  }
}

/** Counters by name. */
export function readCounters(memory: ArrayBuffer, at: number): Record<string, number> {
  const values = new BigUint64Array(memory, at, counterNames.length)
  return Object.fromEntries(counterNames.map((name, index) => [name, Number(values[index])]))
}
