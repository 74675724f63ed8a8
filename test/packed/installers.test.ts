import { execFileSync, spawnSync } from 'node:child_process'
import { hash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { buildInstallers, type WantedInstallers } from '../../scripts/package/installers.ts'
import type { Program } from '../../scripts/package/program.ts'
import { type TargetName, targets } from '../../scripts/package/target.ts'

const tools = ['dpkg-deb', 'rpmbuild', 'wixl', 'msibuild', 'makensis', 'bsdtar', 'xz']
const missing = tools.filter((tool) => spawnSync('sh', ['-c', `command -v ${tool}`]).status !== 0)
const dir = mkdtempSync(join(tmpdir(), 'nsm-installers-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** Stands in for an executable: what matters here is that it arrives as it was. */
function program(name: TargetName): Program {
  const target = targets.find((it) => it.name === name)
  if (!target) throw new TypeError(name)
  const folder = join(dir, name)
  mkdirSync(folder)
  writeFileSync(join(folder, target.program), `#!/bin/sh\necho ${name}\n`, { mode: 0o755 })
  writeFileSync(join(folder, 'nsm.cdx.json'), '{}')
  return { target, path: join(folder, target.program), version: '1.2.3', notices: 'notices\n' }
}

const completions = new Map(['nsm.bash', '_nsm', 'nsm.fish', 'nsm.ps1'].map((name) => [name, `# ${name}\n`]))
const beside = { completions, manPage: '.TH NSM 1\n', licence: 'licence\n' }
const wanted: Omit<WantedInstallers, 'dir'> = { programs: [], beside, isQuick: true, formats: 'all' }
const names = targets.map(({ name }) => name)

describe.skipIf(missing.length > 0)(`the packages of a release (needs ${missing.join(', ') || 'nothing more'})`, () => {
  let programs: readonly Program[] = []
  const release = join(dir, 'release')
  let paths: readonly string[] = []
  const build = (to: string) => {
    mkdirSync(to)
    return buildInstallers({ ...wanted, programs, dir: to })
  }
  beforeAll(() => {
    programs = names.map(program)
    paths = build(release)
  })
  const list = (tool: string, ...words: readonly string[]) =>
    execFileSync(tool, words, { cwd: release, encoding: 'utf8' })

  test('are what each platform installs, with a bill of each program, and what fetches them', () => {
    expect(paths.map((path) => basename(path))).toEqual([
      'nsm-1.2.3-linux-x64.tar.xz',
      'nsm_1.2.3_amd64.deb',
      'nsm-1.2.3-1.x86_64.rpm',
      'nsm-1.2.3-linux-arm64.tar.xz',
      'nsm_1.2.3_arm64.deb',
      'nsm-1.2.3-1.aarch64.rpm',
      'nsm-1.2.3-win-x64.zip',
      'nsm-1.2.3-win-x64.msi',
      'nsm-1.2.3-win-x64-setup.exe',
      'nsm-1.2.3-darwin-arm64.tar.xz',
      'nsm-1.2.3-darwin-x64.tar.xz',
      'install.sh',
      'nsm.rb',
    ])
    const bills = readdirSync(release).filter((name) => name.endsWith('.cdx.json'))
    expect(bills).toEqual(names.map((name) => `nsm-1.2.3-${name}.cdx.json`).sort())
  })

  test('are the same to the byte when they are made again', () => {
    const again = join(dir, 'again')
    build(again)
    const sums = (folder: string) =>
      Object.fromEntries(readdirSync(folder).map((name) => [name, hash('sha256', readFileSync(join(folder, name)))]))
    expect(sums(again)).toEqual(sums(release))
  })

  test('hold the program as it was, to be run by everybody and written by root alone', () => {
    for (const name of ['linux-x64', 'linux-arm64', 'darwin-arm64'] as const) {
      expect(list('tar', '-xJOf', `nsm-1.2.3-${name}.tar.xz`, `nsm-1.2.3-${name}/nsm`)).toContain(`echo ${name}`)
      expect(list('tar', '-tvJf', `nsm-1.2.3-${name}.tar.xz`)).toMatch(/^-rwxr-xr-x 0\/0 .* nsm-[^/]*\/nsm$/m)
    }
    expect(list('bsdtar', '-xOf', 'nsm-1.2.3-win-x64.zip', '*/nsm.exe')).toContain('echo win-x64')
    expect(list('msiextract', '--list', 'nsm-1.2.3-win-x64.msi')).toContain('nsm.exe')
    for (const [file, name] of [
      ['nsm_1.2.3_amd64.deb', 'linux-x64'],
      ['nsm_1.2.3_arm64.deb', 'linux-arm64'],
    ] as const) {
      expect(list('sh', '-c', `dpkg-deb --fsys-tarfile ${file} | tar -xO ./usr/bin/nsm`)).toContain(`echo ${name}`)
      expect(list('dpkg-deb', '-c', file)).toMatch(/^-rwxr-xr-x root\/root .* \.\/usr\/bin\/nsm$/m)
    }
    expect(list('rpm', '-qplv', 'nsm-1.2.3-1.aarch64.rpm')).toMatch(/^-rwxr-xr-x .* root +root .* \/usr\/bin\/nsm$/m)
  })

  test('bring licence, notices, completions and manual page', () => {
    const archive = list('tar', '-tJf', 'nsm-1.2.3-darwin-x64.tar.xz').split('\n')
    for (const file of ['LICENSE', 'THIRD-PARTY-NOTICES.txt', 'nsm.1', 'nsm.bash', '_nsm', 'nsm.fish'])
      expect(archive).toContain(`nsm-1.2.3-darwin-x64/${file}`)
    const windows = list('bsdtar', '-tf', 'nsm-1.2.3-win-x64.zip')
      .trim()
      .split('\n')
      .map((path) => basename(path))
    expect(windows).toEqual(['LICENSE', 'THIRD-PARTY-NOTICES.txt', 'nsm.exe', 'nsm.ps1'])
    for (const file of [list('dpkg-deb', '-c', 'nsm_1.2.3_arm64.deb'), list('rpm', '-qpl', 'nsm-1.2.3-1.x86_64.rpm')]) {
      for (const path of [
        'man/man1/nsm.1.gz',
        'doc/nsm/THIRD-PARTY-NOTICES.gz',
        'completions/nsm',
        'nsm-serve.service',
      ])
        expect(file).toContain(path)
    }
  })

  test('say what they need, and are for their own processor', () => {
    const field = (file: string, name: string) => list('dpkg-deb', '-f', file, name).trim()
    expect(field('nsm_1.2.3_amd64.deb', 'Architecture')).toBe('amd64')
    expect(field('nsm_1.2.3_arm64.deb', 'Architecture')).toBe('arm64')
    expect(field('nsm_1.2.3_arm64.deb', 'Depends')).toContain('libc6 (>= 2.28)')
    expect(list('rpm', '-qp', '--qf', '%{ARCH} %{VERSION}', 'nsm-1.2.3-1.aarch64.rpm')).toBe('aarch64 1.2.3')
    expect(list('rpm', '-qp', '--requires', 'nsm-1.2.3-1.aarch64.rpm')).toContain('glibc >= 2.28')
    expect(list('msiinfo', 'suminfo', 'nsm-1.2.3-win-x64.msi')).toContain('x64;1033')
  })

  test('of Windows put the folder into PATH, and take it out again', () => {
    const table = (name: string) => list('msiinfo', 'export', 'nsm-1.2.3-win-x64.msi', name)
    expect(table('Environment')).toContain('=-*PATH\t[~];[INSTALLDIR]\tProgramFiles_nsm')
    expect(table('InstallExecuteSequence')).toMatch(/^RemoveEnvironmentStrings\t\t3300\r?$/m)
    expect(table('InstallExecuteSequence')).toMatch(/^WriteEnvironmentStrings\t\t5200\r?$/m)
    expect(table('Upgrade')).toContain('6B1E2C0A-7D54-5F1B-9E39-4A0C7F8D2E11')
  })

  test('are in the Homebrew formula with their own sums', () => {
    const formula = readFileSync(join(release, 'nsm.rb'), 'utf8')
    expect(formula).not.toContain('@')
    for (const name of ['darwin-arm64', 'darwin-x64', 'linux-arm64', 'linux-x64']) {
      const sum = hash('sha256', readFileSync(join(release, `nsm-1.2.3-${name}.tar.xz`)))
      expect(formula.replace(/\s+/g, ' ')).toContain(`nsm-1.2.3-${name}.tar.xz" sha256 "${sum}"`)
    }
  })

  test('of one platform come without a formula, which names all', () => {
    const only = join(dir, 'only')
    mkdirSync(only)
    const built = buildInstallers({ ...wanted, programs: programs.slice(0, 1), dir: only })
    expect(built.map((path) => basename(path)).slice(3)).toEqual(['install.sh'])
  })

  test('are none when none is asked for, and the Debian package alone when that is', () => {
    const few = join(dir, 'few')
    mkdirSync(few)
    expect(buildInstallers({ ...wanted, programs, dir: few, formats: 'none' })).toEqual([])
    const built = buildInstallers({ ...wanted, programs, dir: few, formats: 'deb' })
    expect(built.map((path) => basename(path))).toEqual(['nsm_1.2.3_amd64.deb'])
  })
})
