import { closeSync, openSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { openWake, PollWaiter } from '../../src/tunnel/tun/linux-wake.ts'

const onLinux = process.platform === 'linux'

describe.skipIf(!onLinux)(`a wake${onLinux ? '' : ': skipped, needs Linux'}`, () => {
  test('ends the wait of a thread, or the next one, once', () => {
    const wake = openWake()
    const waiter = new PollWaiter([], wake.fd)
    wake.wake()
    wake.wake()
    expect([waiter.wait(60_000), waiter.wait(0)]).toEqual([true, false])
    wake.close()
  })

  test('that is closed touches nothing: its number may be another file’s', () => {
    const former = openWake()
    former.close()
    const next = openWake()
    const waiter = new PollWaiter([], next.fd)
    former.wake()
    expect(waiter.wait(0)).toBe(false)
    former.close()
    next.wake()
    expect(waiter.wait(0)).toBe(true)
    next.close()
    const file = openSync('/dev/null', 'r')
    next.close()
    closeSync(file)
  })
})
