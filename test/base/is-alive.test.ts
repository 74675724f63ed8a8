import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, test } from 'vitest'
import { isAlive } from '../../src/base/is-alive.ts'

test('isAlive: this process and the first one are, one that has ended is not', async () => {
  expect([isAlive(process.pid), isAlive(1)]).toEqual([true, true])
  const child = spawn(process.execPath, ['--version'], { stdio: 'ignore' })
  await once(child, 'exit')
  expect(isAlive(child.pid ?? 0)).toBe(false)
})
