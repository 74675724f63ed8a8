import type { Log } from './log.ts'

/** Takes back one change to the machine; calling it twice does nothing more. */
export type Undo = () => Promise<void>

/** Collects undos and runs them in reverse order; one that fails is logged and the others still run. */
export class UndoStack {
  readonly #undos: Undo[] = []
  readonly #log: Log

  constructor(log: Log) {
    this.#log = log
  }

  /** Adds the undo of a change that was just made. */
  push(undo: Undo): void {
    this.#undos.push(undo)
  }

  /** Runs and forgets every undo, last change first. */
  readonly run: Undo = async () => {
    for (let undo = this.#undos.pop(); undo; undo = this.#undos.pop()) {
      try {
        await undo()
      } catch (error) {
        this.#log.warn('a change could not be taken back', { error: String(error) })
      }
    }
  }
}
