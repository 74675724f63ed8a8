import type { Beside } from './program.ts'

/** How packages are made, whatever their format. */
export interface Packing {
  readonly beside: Beside
  /** Compressed little, in seconds. */
  readonly isQuick: boolean
  /** Where they go. */
  readonly dir: string
}
