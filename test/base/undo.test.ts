import { describe, expect, test, vi } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import { UndoStack } from '../../src/base/undo.ts'

describe('UndoStack', () => {
  test('takes back the last change first, and each only once', async () => {
    const done: number[] = []
    const stack = new UndoStack(silentLog)
    for (const step of [1, 2, 3]) stack.push(async () => void done.push(step))
    await stack.run()
    await stack.run()
    expect(done).toEqual([3, 2, 1])
  })

  test('goes on when one fails, and says so', async () => {
    const done: number[] = []
    const warn = vi.fn()
    const stack = new UndoStack({ ...silentLog, warn })
    stack.push(async () => void done.push(1))
    stack.push(() => Promise.reject(new TypeError('gone')))
    stack.push(async () => void done.push(3))
    await stack.run()
    expect(done).toEqual([3, 1])
    expect(warn).toHaveBeenCalledWith('a change could not be taken back', { error: 'TypeError: gone' })
  })

  test('run twice at the same time runs every undo once', async () => {
    const done: number[] = []
    const stack = new UndoStack(silentLog)
    for (const step of [1, 2, 3, 4]) stack.push(async () => void done.push(step))
    await Promise.all([stack.run(), stack.run()])
    expect(done.toSorted()).toEqual([1, 2, 3, 4])
  })
})
