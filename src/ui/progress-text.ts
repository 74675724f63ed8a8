import { printable } from '../base/printable.ts'
import type { ProgressStep } from '../daemon/protocol.ts'
import { durationText } from './duration.ts'

/**
 * Turns the steps of one connect into lines of progress: a finished phase with the time it took, and with `verbose` also
 * the start of a phase. The result gives undefined for a step that says nothing.
 */
export function progressLines(verbose: boolean): (step: ProgressStep) => string | undefined {
  const startedMs = new Map<string, number>()
  return (step) => {
    const service = step.service === undefined ? '' : `${step.service}: `
    const phase = `${service}${step.phase}`
    if (step.state === 'started') {
      startedMs.set(phase, step.elapsedMs)
      return verbose ? `  ${phase} ...` : undefined
    }
    const tookMs = step.elapsedMs - (startedMs.get(phase) ?? 0)
    const detail = step.detail === undefined ? '' : `  ${step.detail}`
    return printable(`  ${service}${step.phase.padEnd(9)}${durationText(tookMs).padStart(7)}${detail}`)
  }
}
