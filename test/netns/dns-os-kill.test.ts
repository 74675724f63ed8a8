import { describe, expect, test } from 'vitest'
import { machines, useRoom } from '../support/os-machines.ts'
import { whyNoRoom } from '../support/os-room.ts'

/* nsm is killed wherever it changes something; nothing of it may stay. */

for (const { what, setUp, from, method } of machines) {
  const why = await whyNoRoom(from)
  describe.skipIf(why)(`system resolver kept by ${what}${why ? ` (skipped, ${why})` : ''}`, () => {
    const inRoom = useRoom(setUp, from)

    test('comes back byte for byte with `nsm cleanup` after SIGKILL at each step of setting, changing and undoing it', async () => {
      const { rounds, end } = await inRoom.steps()
      expect(end.method).toBe(method)
      // What resolvconf says of its records in between is counted too, and comes when it likes.
      expect(rounds.length).toBeGreaterThan(end.steps)
      expect(rounds.filter(({ isSame }) => !isSame)).toEqual([])
      expect(rounds.filter(({ died }) => !died)).toEqual(rounds.slice(-1))
      expect(rounds.filter(({ changed }) => changed).length).toBeGreaterThan(rounds.length / 4)
      expect(rounds.filter(({ again }) => again !== 'nothing')).toEqual([])
      expect(rounds.map(({ repaired }) => repaired)).toContain('system resolver restored')
    }, 300_000)
  })
}
