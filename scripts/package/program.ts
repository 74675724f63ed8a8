import type { Target } from './target.ts'

/** A finished executable. */
export interface Program {
  readonly target: Target
  readonly path: string
  readonly version: string
  /** The licences of what is inside. */
  readonly notices: string
}

/** What goes beside a program, the same for every platform. */
export interface Beside {
  /** By file name. */
  readonly completions: ReadonlyMap<string, string>
  readonly manPage: string
  readonly licence: string
}
