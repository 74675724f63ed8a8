import { NsmError } from '../base/errors.ts'

const unitMs: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }

/** Ours: no wait of the command line is longer than a day. */
const durationMaxMs = 24 * 3_600_000

/** Parses a duration in Go's syntax (`60s`, `1m30s`, `500ms`, `1.5h`) to milliseconds; throws `USAGE`. */
export function parseDurationMs(text: string): number {
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h)/g)]
  const read = parts.map(([part]) => part).join('')
  const totalMs = Math.round(
    parts.reduce((sum, [, digits, unit = '']) => sum + Number(digits) * (unitMs[unit] ?? 0), 0),
  )
  if (read === '' || read !== text || totalMs <= 0 || totalMs > durationMaxMs) {
    throw new NsmError('USAGE', `"${text}" is not a duration`, 'write it like 500ms, 60s or 1m30s; at most 24h')
  }
  return totalMs
}

/** A duration for people: `42ms`, `1.3s`, `42s`, `3m12s`, `2h5m`, `3d4h`. */
export function durationText(durationMs: number): string {
  const ms = Math.max(0, Math.round(durationMs))
  if (ms < 1_000) return `${ms}ms`
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)}s`
  const seconds = Math.round(ms / 1_000)
  if (seconds < 60) return `${seconds}s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 60) return `${minutes}m${seconds % 60}s`
  const hours = Math.floor(minutes / 60)
  return hours < 24 ? `${hours}h${minutes % 60}m` : `${Math.floor(hours / 24)}d${hours % 24}h`
}
