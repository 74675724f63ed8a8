import type { Clock } from '../base/clock.ts'

/** Counts what keeps the process; when all counts are zero for the grace time, it is idle. */
export interface IdleTimer {
  set(what: string, count: number): void
}

/** Starts counting at the first `set`. */
export function createIdleTimer(settings: {
  readonly clock: Pick<Clock, 'after'>
  readonly graceMs: number
  readonly onIdle: () => void
}): IdleTimer {
  const counts = new Map<string, number>()
  let cancel: (() => void) | undefined
  return {
    set(what, count) {
      counts.set(what, count)
      const isIdle = [...counts.values()].every((value) => value === 0)
      if (!isIdle) {
        cancel?.()
        cancel = undefined
      } else cancel ??= settings.clock.after(settings.graceMs, settings.onIdle)
    },
  }
}
