import type { Clock } from '../base/clock.ts'
import { NsmError } from '../base/errors.ts'
import type { Phase, ProgressStep } from './protocol.ts'

/** Follows the parts of one connect: tells the caller, keeps the times, knows what is under way. */
export class Steps {
  readonly #clock: Clock
  readonly #progress: (step: ProgressStep) => void
  readonly #startedMs: number
  readonly #open = new Map<string, { readonly phase: Phase; readonly atMs: number }>()
  readonly #spans = new Map<Phase, { readonly fromMs: number; readonly toMs: number }>()

  constructor(clock: Clock, progress: (step: ProgressStep) => void) {
    this.#clock = clock
    this.#progress = progress
    this.#startedMs = clock.monotonicMs()
  }

  /** Milliseconds since the beginning, to 0.1 ms. */
  get elapsedMs(): number {
    return Math.round((this.#clock.monotonicMs() - this.#startedMs) * 10) / 10
  }

  /** Notes the beginning or the end of a part; a second beginning of an open part is no news. */
  note(step: Pick<ProgressStep, 'phase' | 'state' | 'detail' | 'service'>): void {
    const { elapsedMs } = this
    const key = `${step.phase} ${step.service ?? ''}`
    const open = this.#open.get(key)
    if (step.state === 'started') {
      if (open) return
      this.#open.set(key, { phase: step.phase, atMs: elapsedMs })
    } else {
      this.#open.delete(key)
      const known = this.#spans.get(step.phase)
      const fromMs = Math.min(known?.fromMs ?? elapsedMs, open?.atMs ?? elapsedMs)
      this.#spans.set(step.phase, { fromMs, toMs: elapsedMs })
    }
    this.#progress({ ...step, elapsedMs })
  }

  /** How long each finished part took, in the order in which they ended. */
  times(): { readonly phase: string; readonly ms: number }[] {
    return [...this.#spans].map(([phase, { fromMs, toMs }]) => ({ phase, ms: Math.round((toMs - fromMs) * 10) / 10 }))
  }

  /** The error of a deadline: names what was under way, the latest begun. */
  deadline(timeoutMs: number): NsmError {
    const phase = [...this.#open.values()].at(-1)?.phase ?? 'identity'
    return new NsmError('UNREACHABLE', `${phase}: not done within ${timeoutMs / 1_000} s`, nextSteps[phase])
  }
}

const nextSteps: Readonly<Record<Phase, string>> = {
  identity: 'check that the server in the join file runs and that its TCP port can be reached',
  registry: 'check that the registry can be reached',
  request: 'check that the manager runs and that its TCP port can be reached',
  tunnel: "check that UDP to the endpoint's WireGuard port is let through",
  routes: 'see `nsm status`',
  dns: 'check the name server of the service, or connect with --dns off',
}
