import { type Clock, sleep } from '../base/clock.ts'
import type { Machine } from './machine.ts'
import type { Names } from './names.ts'
import type { Other } from './taken.ts'

/** What a watch of the machine's networks looks at. */
export interface SurroundingsParts {
  readonly clock: Clock
  readonly machine: Pick<Machine, 'openHostChanges'>
  readonly names: Pick<Names, 'upstreams'>
  readonly others: () => readonly Other[]
}

/** Ours [security E6]: how often it is looked whether the machine joined a network that overlaps. */
const surroundingsMs = 1_000

/**
 * Judges once, and again when the machine's network, its resolvers or the other connections changed, until the signal is aborted.
 * A judgement that gives true or fails is made again a second later: reading a large table of routes takes 30 ms, so nothing is read in vain.
 */
export async function watchSurroundings(
  { clock, machine, names, others }: SurroundingsParts,
  judge: () => Promise<boolean>,
  signal: AbortSignal,
): Promise<void> {
  const changes = await machine.openHostChanges()
  let before = ''
  try {
    for (let again = true; ; ) {
      await sleep(clock, surroundingsMs, signal)
      const around = JSON.stringify([others(), await names.upstreams()])
      if (!changes.any() && around === before && !again) continue
      before = around
      // A network that could not be read is read again.
      again = await judge().catch(() => true)
    }
  } finally {
    changes.close()
  }
}
