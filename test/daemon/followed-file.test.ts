import { rename, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { fileState, followFile } from '../../src/daemon/followed-file.ts'
import { createFakeClock } from '../support/fake-clock.ts'
import { scratchDir } from '../support/scratch.ts'

/** A followed file, and `look` for one look at it; the loads so far. */
async function open(load = async () => {}, meanwhile: (path: string) => Promise<void> = async () => {}) {
  const path = join(await scratchDir(), 'policy.yaml')
  await writeFile(path, 'one')
  const since = await fileState(path)
  await meanwhile(path)
  const clock = createFakeClock()
  const loads = { count: 0 }
  const followed = followFile(path, {
    since,
    clock,
    async load() {
      loads.count++
      await load()
    },
  })
  const rested = () => expect.poll(() => clock.waiting).toBe(1)
  await rested()
  const look = async () => {
    await clock.advance(500)
    await rested()
  }
  await look()
  return { path, loads, followed, look, clock }
}

test('followFile loads a change once, when it has stood still between two looks', async () => {
  const { path, loads, look } = await open()
  await look()
  expect(loads.count).toBe(0)
  for (const text of ['two', 'two a', 'two a b']) {
    await writeFile(path, text)
    await look()
    expect(loads.count).toBe(0)
  }
  await look()
  await look()
  expect(loads.count).toBe(1)
})

test('followFile loads what was written between the first reading and its first look', async () => {
  const { loads } = await open(
    async () => {},
    (path) => writeFile(path, 'two'),
  )
  expect(loads.count).toBe(1)
})

test('followFile sees a file that takes the place of another, also behind a link', async () => {
  const { path, loads, look } = await open()
  await writeFile(`${path}.new`, 'one')
  await rename(`${path}.new`, path)
  await look()
  await look()
  expect(loads.count).toBe(1)
  await writeFile(`${path}.linked`, 'two')
  await rm(path)
  await symlink(`${path}.linked`, path)
  await look()
  await look()
  expect(loads.count).toBe(2)
  await writeFile(`${path}.linked`, 'three')
  await look()
  await look()
  expect(loads.count).toBe(3)
})

test('followFile tells of a file that is gone, once, and of its return', async () => {
  const { path, loads, look } = await open()
  await rm(path)
  for (let i = 0; i < 4; i++) await look()
  expect(loads.count).toBe(1)
  await writeFile(path, 'back')
  await look()
  await look()
  expect(loads.count).toBe(2)
})

test('followFile reloads at once when it is told to, one load after the other', async () => {
  let running = 0
  const most: number[] = []
  const { followed, loads } = await open(async () => {
    most.push(++running)
    await new Promise((resolve) => setImmediate(resolve))
    running--
  })
  await Promise.all([followed.reload(), followed.reload(), followed.reload()])
  expect([loads.count, Math.max(...most)]).toEqual([3, 1])
})

test('followFile leaves no timer behind', async () => {
  const { followed, clock } = await open()
  followed.close()
  expect(clock.waiting).toBe(0)
})
