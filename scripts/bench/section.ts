/** One measured subject: a table of figures of ours beside a peer's, or beside a target. */
export interface BenchSection {
  readonly name: string
  readonly rows: readonly BenchRow[]
  /** Program name -> version, as the programs print them. */
  readonly versions: Readonly<Record<string, string>>
  readonly notes: readonly string[]
}

/** One figure. `ratio` is ours / peer; `limit` bounds the ratio from above (`lower`) or from below (`higher`). */
export interface BenchRow {
  readonly label: string
  readonly ours: number
  /** The peer's figure, or the target where there is no peer. */
  readonly peer: number
  readonly unit: string
  readonly ratio: number
  readonly limit?: number
  readonly betterIs: 'lower' | 'higher'
}
