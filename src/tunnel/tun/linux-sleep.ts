import { libc } from '../sys/libc.ts'
import { allocateNative, type NativeBuffer } from '../sys/native-buffer.ts'

/** Milliseconds this machine has slept since it started [clock_gettime(2)]: one clock goes on then, the other does not. */
export function sleptMs(): number {
  times ??= allocateNative(16)
  // In this order a thread that is interrupted in between says less than it was, never more.
  const sinceStartMs = read(CLOCK_BOOTTIME, times)
  return sinceStartMs - read(CLOCK_MONOTONIC, times)
}

/** Of this thread. */
let times: NativeBuffer | undefined

function read(clock: number, { address, view }: NativeBuffer): number {
  libc().clockGettime(clock, address)
  return Number(view.getBigInt64(0, true)) * 1_000 + Number(view.getBigInt64(8, true)) / 1e6
}

/** [Linux include/uapi/linux/time.h] */
const CLOCK_MONOTONIC = 1
const CLOCK_BOOTTIME = 7
