import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { silentLog } from '../../src/base/log.ts'
import type { Settings } from '../../src/base/settings.ts'
import { takeLock } from '../../src/daemon/lock.ts'
import { lockPath } from '../../src/daemon/paths.ts'
import { repairMachine } from '../../src/daemon/repair.ts'
import { scratchDir } from '../support/scratch.ts'

let settings: Settings
beforeEach(async () => {
  const dir = await scratchDir()
  settings = {
    ...{ stateDir: join(dir, 'state'), runtimeDir: join(dir, 'run') },
    ...{ logLevel: 'error', resolvConf: join(dir, 'resolv.conf') },
  }
})

describe('repairMachine', () => {
  test('removes what killed writers left of keys and tokens, says of which, and does it once', async () => {
    const { pid } = spawnSync('true')
    for (const [folder, name] of [
      ['.', 'connections.json'],
      ['identities', 'a.example.json'],
      ['identities', 'a.example.refresh-token'],
      ['ca', 'root.key'],
    ] as const) {
      await mkdir(join(settings.stateDir, folder), { recursive: true, mode: 0o700 })
      await writeFile(join(settings.stateDir, folder, name), 'whole', { mode: 0o600 })
      await writeFile(join(settings.stateDir, folder, `${name}.${pid}.3.tmp`), 'half', { mode: 0o600 })
    }
    const { repaired } = await repairMachine(settings, silentLog)
    expect(repaired.toSorted()).toEqual([
      'unfinished a.example.json removed',
      'unfinished a.example.refresh-token removed',
      'unfinished connections.json removed',
      'unfinished root.key removed',
    ])
    const left = await readdir(settings.stateDir, { recursive: true })
    expect(left.filter((name) => name.endsWith('.tmp'))).toEqual([])
    expect(left).toContain('ca/root.key')
    expect(await repairMachine(settings, silentLog)).toEqual({ repaired: [] })
  })

  test('leaves everything to a background process that runs', async () => {
    await mkdir(settings.stateDir, { mode: 0o700 })
    await mkdir(settings.runtimeDir, { mode: 0o700 })
    const half = join(settings.stateDir, `last.${spawnSync('true').pid}.1.tmp`)
    await writeFile(half, 'half')
    const lock = takeLock(lockPath(settings))
    expect(await repairMachine(settings, silentLog)).toEqual({ repaired: [] })
    expect(existsSync(half)).toBe(true)
    lock?.release()
  })
})
