import { execFile } from 'node:child_process'
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { beforeEach, describe, expect, test } from 'vitest'
import { scratchDir } from '../support/scratch.ts'

/* A checkout that has no packages, with doubles for npm, for the lock that another installation holds, and for time. */

const script = resolve(import.meta.dirname, '../../scripts/install.sh')
let dir = ''
beforeEach(async () => {
  dir = await scratchDir()
  for (const folder of ['bin', 'scripts', 'node_modules/.bin']) mkdirSync(join(dir, folder), { recursive: true })
  copyFileSync(script, join(dir, 'scripts/install.sh'))
  writeFileSync(join(dir, 'package-lock.json'), '{}')
  for (const tool of ['dirname', 'touch']) symlinkSync(`/usr/bin/${tool}`, join(dir, 'bin', tool))
  double('npm', 'echo npm >>"$0.calls"')
  double('sleep', 'echo "$1" >>"$0.calls"')
})

function double(name: string, body: string): void {
  writeFileSync(join(dir, 'bin', name), `#!/bin/sh\n${body}\n`)
  chmodSync(join(dir, 'bin', name), 0o755)
}

function calls(name: string): number {
  const path = join(dir, 'bin', `${name}.calls`)
  return existsSync(path) ? readFileSync(path, 'utf8').trim().split('\n').length : 0
}

function install(): Promise<{ readonly exitCode: number | null; readonly err: string }> {
  return new Promise((settle) => {
    const env = { PATH: join(dir, 'bin') }
    const child = execFile('/bin/sh', [join(dir, 'scripts/install.sh')], { env }, (_error, _out, err) =>
      settle({ exitCode: child.exitCode, err }),
    )
  })
}

describe('scripts/install.sh', () => {
  test('gives up after ten minutes beside an installation that does not end, and says so', async () => {
    double('flock', '[ "$1" = -n ] || exit 64; exit 1')
    const { exitCode, err } = await install()
    expect([exitCode, calls('sleep'), calls('npm')]).toEqual([7, 600, 0])
    expect(err).toContain('another installation')
    expect(err).toContain('end it, then run this again')
  })

  test('installs once the other has ended', async () => {
    double('flock', 'echo x >>"$0.calls"; [ -e "$0.again" ] && exit 0; : >"$0.again"; exit 1')
    expect(await install()).toMatchObject({ exitCode: 0 })
    expect([calls('flock'), calls('sleep'), calls('npm')]).toEqual([2, 1, 1])
  })

  test('installs nothing when the other has installed it all', async () => {
    const packages = join(dir, 'node_modules')
    double('flock', `cd ${packages}; : >.bin/node; /bin/chmod +x .bin/node; : >.package-lock.json`)
    expect(await install()).toEqual({ exitCode: 0, err: '' })
    expect(calls('npm')).toBe(0)
  })

  test('installs where there is no flock', async () => {
    expect(await install()).toMatchObject({ exitCode: 0 })
    expect([calls('sleep'), calls('npm')]).toEqual([0, 1])
  })
})
