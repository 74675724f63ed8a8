import type { ConnectResult } from '../daemon/protocol.ts'
import { durationText } from './duration.ts'
import { connectionLines, spiffeLine } from './status-text.ts'

/** The connections as `nsm status` shows them, then the time each phase took. */
export function connectText(result: ConnectResult): string {
  const socket = result.spiffeSocket ? [spiffeLine(result.spiffeSocket)] : []
  return [...connectionLines(result.connections), timing(result), ...socket].join('\n')
}

function timing(result: ConnectResult): string {
  if (result.alreadyUp) return '# was connected already'
  const steps = result.steps.map(({ phase, ms }) => `${phase} ${durationText(ms)}`)
  return `# usable after ${durationText(result.totalMs)}${steps.length === 0 ? '' : `: ${steps.join(', ')}`}`
}
