import { NsmError } from '../base/errors.ts'

const unitMs: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }

/** Ours: no wait of the command line and no life in a settings file is longer than a day. */
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
