import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, describe, expect, onTestFinished, test, vi } from 'vitest'
import { silentLog } from '../../../src/base/log.ts'
import { type ResolvWatch, watchFolder, watchResolvFile } from '../../../src/dns/os/watch.ts'
import { scratchDir } from '../../support/scratch.ts'

const open: ResolvWatch[] = []
afterEach(async () => {
  for (const watch of open.splice(0)) await watch.close()
})

/** A file of ours that is watched; everything is ours that begins with "ours". */
async function watched(reapply = (path: string) => writeFile(path, 'ours again')) {
  const path = join(await scratchDir(), 'resolv.conf')
  await writeFile(path, 'ours')
  const [seen, warnings]: [string[], string[]] = [[], []]
  const watch = watchResolvFile({
    path,
    log: { ...silentLog, warn: (sentence) => void warnings.push(sentence) },
    isOurs: (text) => text.startsWith('ours'),
    isAnothers: (text) => text.startsWith('another'),
    reapply: async (text) => {
      seen.push(text)
      await reapply(path)
    },
  })
  open.push(watch)
  const text = () => readFile(path, 'utf8')
  const is = (wanted: string) => expect.poll(text).toBe(wanted)
  return { path, seen, warnings, watch, text, is }
}

/** Writes until the watch has given way: all in no time, for what counts is how often. */
async function wear({ path, warnings, text }: Awaited<ReturnType<typeof watched>>): Promise<void> {
  vi.spyOn(performance, 'now').mockReturnValue(performance.now())
  onTestFinished(() => void vi.restoreAllMocks())
  while (warnings.length === 0) {
    if ((await text()) !== 'foreign') await writeFile(path, 'foreign')
    await new Promise((resolve) => setImmediate(resolve))
  }
}

describe('watchResolvFile', () => {
  test('answers a foreign text, written over or renamed over, and hands it on', async () => {
    const { path, seen, is } = await watched()
    await writeFile(`${path}.new`, 'foreign 1')
    await rename(`${path}.new`, path)
    await is('ours again')
    await writeFile(path, 'foreign 2')
    await is('ours again')
    expect(seen.filter((text) => text.endsWith('1')).length).toBe(1)
    expect(new Set(seen).size).toBeGreaterThanOrEqual(2)
  })

  test('says nothing to our own texts, to an empty one or to none', async () => {
    const { path, seen, watch } = await watched()
    for (const text of ['ours 2', '', 'ours 3']) await writeFile(path, text)
    await rm(path)
    await watch.exclusively(async () => {})
    expect(seen).toEqual([])
  })

  test('gives way after ten answers in 5 s, and says so once', async () => {
    const lab = await watched()
    await wear(lab)
    await writeFile(lab.path, 'foreign still')
    expect(lab.seen.length).toBe(10)
    expect(lab.warnings).toEqual(['another program keeps changing the resolver file; it is left to it'])
  })

  test('that gave way takes the file up again for a change of ours, and watches on', async () => {
    const lab = await watched()
    await wear(lab)
    await lab.watch.exclusively(() => writeFile(lab.path, 'ours, changed'))
    expect(lab.seen.at(-1)).toBe('foreign')
    expect(await lab.text()).toBe('ours, changed')
    await writeFile(lab.path, 'foreign later')
    await lab.is('ours again')
  })

  test('leaves the file to another nsm, also when a change of ours comes', async () => {
    const { path, warnings, watch, text, seen } = await watched()
    await writeFile(path, 'another')
    await expect.poll(() => warnings.length).toBe(1)
    const change = vi.fn(async () => {})
    await watch.exclusively(change)
    expect([await text(), change.mock.calls.length, seen]).toEqual(['another', 0, []])
    await writeFile(path, 'foreign')
    await watch.exclusively(change)
    expect([await text(), change.mock.calls.length]).toEqual(['ours again', 1])
  })

  test('logs a foreign text that it could not answer, and goes on', async () => {
    let fails = true
    const { path, warnings, is } = await watched(async (path) => {
      if (fails) throw new TypeError('read-only')
      await writeFile(path, 'ours again')
    })
    await writeFile(path, 'foreign')
    await expect.poll(() => warnings).toContain('resolver file not renewed')
    fails = false
    await writeFile(path, 'foreign 2')
    await is('ours again')
  })

  test('hands the failure of a change to its caller', async () => {
    const { watch } = await watched()
    await expect(watch.exclusively(() => Promise.reject(new TypeError('refused')))).rejects.toThrow('refused')
    await watch.exclusively(async () => {})
  })

  test('that is closed answers nothing any more', async () => {
    const { path, watch, text } = await watched()
    await watch.close()
    await writeFile(path, 'foreign')
    await watch.exclusively(async () => {})
    expect(await text()).toBe('foreign')
  })
})

test('watchFolder of a folder that is not there watches nothing and does not fail', () => {
  expect(watchFolder('/nowhere/at/all', () => {})).toBeUndefined()
})
