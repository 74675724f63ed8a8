import { spawnSync } from 'node:child_process'

/**
 * Seconds since 1970 that stand for the time of a build wherever a format wants one: of SOURCE_DATE_EPOCH, else of the
 * commit, so that the same commit gives the same bytes.
 */
export function buildTimeS(): number {
  const wanted = process.env['SOURCE_DATE_EPOCH'] ?? commitTime()
  return /^\d+$/.test(wanted) ? Number(wanted) : withoutHistoryS
}

/** 2026-01-01, of sources that came without their history. */
const withoutHistoryS = 1_767_225_600

function commitTime(): string {
  const words = ['-C', import.meta.dirname, 'log', '-1', '--format=%ct']
  const { status, stdout } = spawnSync('git', words, { encoding: 'utf8' })
  return status === 0 ? stdout.trim() : ''
}
