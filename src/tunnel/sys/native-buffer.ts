import { libc } from './libc.ts'

/** Zeroed memory outside the JavaScript heap with a fixed address; keep the object as long as the system may use it. */
export interface NativeBuffer {
  readonly bytes: Uint8Array
  readonly view: DataView
  readonly address: number
}

/** Allocates memory that system calls may read and write. */
export function allocateNative(bytes: number): NativeBuffer {
  // A typed array of 64 bytes or less may live on the heap and move; one over its own ArrayBuffer never does.
  const memory = new Uint8Array(new ArrayBuffer(Math.max(bytes, 128)))
  return { bytes: memory, view: new DataView(memory.buffer), address: libc().addressOf(memory) }
}
