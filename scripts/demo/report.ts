/** One shown step: what was done, whether it held, and what could be seen. */
export interface StepResult {
  readonly name: string
  readonly ok: boolean
  readonly ms: number
  /** Lines that a person reads to see that it worked, or why it did not. */
  readonly seen: readonly string[]
}

/** What one step gives back; `ok` false fails the demo, the later steps still run. */
export interface StepOutcome {
  readonly ok: boolean
  readonly seen: readonly string[]
  /** Named figures of the JSON document. */
  readonly figures?: Readonly<Record<string, number | string>>
}

/** Runs steps one after another, shows each as it ends, and keeps the results for the JSON document. */
export class Report {
  readonly #steps: StepResult[] = []
  readonly #figures: Record<string, number | string> = {}
  readonly #write: (line: string) => void

  constructor(write: (line: string) => void) {
    this.#write = write
  }

  /** Writes a line for people that belongs to no step. */
  say(line: string): void {
    this.#write(line)
  }

  /** Runs one step; a step that throws did not hold. */
  async step(name: string, act: () => Promise<StepOutcome>): Promise<boolean> {
    const startedMs = performance.now()
    const outcome = await act().catch((error: unknown) => ({ ok: false, seen: [String(error)], figures: {} }))
    const ms = Math.round(performance.now() - startedMs)
    this.#steps.push({ name, ok: outcome.ok, ms, seen: outcome.seen })
    Object.assign(this.#figures, outcome.figures)
    this.#write(`${outcome.ok ? 'ok  ' : 'FAIL'} ${name}  (${ms} ms)`)
    for (const line of outcome.seen) this.#write(`       ${line}`)
    return outcome.ok
  }

  /** True when at least one step ran and each one held. */
  get ok(): boolean {
    return this.#steps.length > 0 && this.#steps.every((step) => step.ok)
  }

  /** The whole run as one JSON document. */
  toJson(): string {
    const document = { apiVersion: 'nsm/demo/v1', ok: this.ok, steps: this.#steps, figures: this.#figures }
    return JSON.stringify(document, undefined, 2)
  }
}
