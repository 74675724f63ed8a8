import { expect, test } from 'vitest'
import { AnswerQueue } from '../../src/nsm/answer-queue.ts'

test.each([0, 1, 1_000, 32_768])(
  'AnswerQueue has no room for messages of %d bytes without end, and again when they were read',
  async (length) => {
    const queue = new AnswerQueue<string>()
    let count = 1
    while (queue.push(Buffer.alloc(length))) expect(++count).toBeLessThan(1_000)
    for (let i = 0; i < count; i++) expect(await queue.next()).toHaveLength(length)
    expect(queue.hasRoom).toBe(true)
  },
)
