import { execFileSync, spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { CleanMachine, elsewhere, endServe } from './clean-machine.ts'

const root = resolve(import.meta.dirname, '../..')
const dist = join(root, 'dist')
/** A system without Node, npm or this checkout: debootstrap --variant=minbase --include=iproute2 bookworm FOLDER. */
const system = process.env['NSM_DEB_ROOT'] ?? ''
const unit = join(root, 'installers/nsm-serve.service')

const named = (end: string) => (existsSync(dist) ? readdirSync(dist).find((name) => name.endsWith(end)) : undefined)
const debName = named('_amd64.deb')
const rpmName = named('.x86_64.rpm')
const canInstall = system !== '' && process.getuid?.() === 0
const has = (program: string) => spawnSync(program, ['--version']).status === 0

describe('the unit of the server', () => {
  test.skipIf(!has('systemd-analyze'))('is one that systemd takes, and exposes little (needs systemd-analyze)', () => {
    const dir = mkdtempSync(join(tmpdir(), 'nsm-unit-'))
    try {
      const path = join(dir, 'nsm-serve.service')
      const withoutProgram = readFileSync(unit, 'utf8')
        .replaceAll('/usr/bin/nsm', '/bin/true')
        .replace(/^Documentation.*/m, '')
      writeFileSync(path, withoutProgram)
      expect(spawnSync('systemd-analyze', ['verify', path], { encoding: 'utf8' })).toMatchObject({
        status: 0,
        stderr: '',
      })
      const said = execFileSync('systemd-analyze', ['security', '--offline=true', path], { encoding: 'utf8' })
      expect(Number(/exposure level for \S+: ([\d.]+)/.exec(said)?.[1])).toBeLessThanOrEqual(4)
    } finally {
      rmSync(dir, { recursive: true, force: true })
    }
  })

  test('gives back what it changed when it ends, however it ends', () => {
    expect(readFileSync(unit, 'utf8')).toContain('ExecStopPost=/usr/bin/nsm cleanup\n')
  })
})

/** The machine of the tests that run, and the paths it had before them. */
let machine: CleanMachine
let before: readonly string[] = []

function useMachine(prepare: () => void): void {
  beforeAll(() => {
    machine = new CleanMachine(system)
    before = machine.paths()
    prepare()
  })
  afterAll(() => machine?.stop())
}

/** Serves and connects with the program that is installed, leaves, and takes the second machine's state away. */
async function useIt(): Promise<void> {
  const server = await machine.startServe()
  const words = ['connect', '--join', '/tmp/join', 'my-networkservice-1', '--json']
  const connected = await machine.run('b', ...elsewhere, ...words)
  expect([connected.exitCode, connected.err]).toEqual([0, expect.anything()])
  expect(JSON.parse((await machine.run('b', ...elsewhere, 'status', '--json')).out).connections[0].state).toBe('up')
  expect((await machine.run('a', 'nsm', 'invite')).out).toContain('nsm://')
  expect((await machine.run('b', ...elsewhere, 'disconnect', '--all')).exitCode).toBe(0)
  await endServe(server)
  rmSync(join(machine.root, 'var/lib/nsm-b'), { recursive: true })
}

const canInstallDeb = canInstall && debName !== undefined

describe.skipIf(!canInstallDeb)(
  'the Debian package (needs root, dist/*.deb, and NSM_DEB_ROOT: a debootstrap folder)',
  () => {
    useMachine(() => copyFileSync(join(dist, debName ?? ''), join(machine.root, 'tmp/nsm.deb')))

    test('is installed, serves and connects in two namespaces, and is removed without a trace', async () => {
      expect((await machine.run('a', 'sh', '-c', 'command -v node npm git')).out).toBe('')
      expect(await machine.run('a', 'dpkg', '-i', '/tmp/nsm.deb')).toMatchObject({ exitCode: 0, err: '' })
      await useIt()
      expect(await machine.run('a', 'dpkg', '--purge', 'nsm')).toMatchObject({ exitCode: 0, err: '' })
      expect(machine.paths()).toEqual(before)
    })

    test('is upgraded to a later one, and keeps the identities when it is removed but not purged', async () => {
      const later = `cd /tmp && dpkg-deb -R nsm.deb t && sed -i 's/^Version: .*/&-later/' t/DEBIAN/control &&
        dpkg-deb -Zgzip -z1 -b t later.deb && rm -r t`
      expect((await machine.run('a', 'sh', '-c', later)).exitCode).toBe(0)
      expect((await machine.run('a', 'dpkg', '-i', '/tmp/nsm.deb')).exitCode).toBe(0)
      await endServe(await machine.startServe())
      expect(await machine.run('a', 'dpkg', '-i', '/tmp/later.deb')).toMatchObject({ exitCode: 0, err: '' })
      expect((await machine.run('a', 'dpkg', '-s', 'nsm')).out).toMatch(/^Version: .*-later$/m)
      await useIt()
      expect((await machine.run('a', 'dpkg', '--remove', 'nsm')).exitCode).toBe(0)
      expect(readdirSync(join(machine.root, 'var/lib/nsm'))).not.toEqual([])
      expect((await machine.run('a', 'sh', '-c', 'command -v nsm')).out).toBe('')
      expect((await machine.run('a', 'dpkg', '--purge', 'nsm')).exitCode).toBe(0)
      expect(machine.paths()).toEqual(before)
    })

    test('is installed by the steps of the Containerfile, which leave no cache behind', async () => {
      const file = readFileSync(join(root, 'installers/Containerfile'), 'utf8').replaceAll('\\\n', ' ')
      const steps = [...file.matchAll(/^RUN (.*)$/gm)].map(([, step = '']) => step.replace('apt-get update', 'true'))
      copyFileSync(join(machine.root, 'tmp/nsm.deb'), join(machine.root, 'tmp/kept.deb'))
      for (const step of steps) expect(await machine.run('a', 'sh', '-c', step)).toMatchObject({ exitCode: 0 })
      const entry: unknown = JSON.parse(/^ENTRYPOINT (.*)$/m.exec(file)?.[1] ?? '[]')
      expect(entry).toEqual(['/usr/bin/nsm'])
      expect((await machine.run('a', '/usr/bin/nsm', '--version')).out).toMatch(/^nsm \d/)
      expect(existsSync(join(machine.root, 'tmp/nsm.deb'))).toBe(false)
      expect(readdirSync(join(machine.root, 'var/lib/apt/lists'))).toEqual([])
      expect((await machine.run('a', 'dpkg', '--purge', 'nsm')).exitCode).toBe(0)
    })

    test.skipIf(!has('lintian'))('has no error and no warning that lintian knows of (needs lintian)', () => {
      const said = spawnSync('lintian', ['--allow-root', '--fail-on', 'error,warning', join(dist, debName ?? '')], {
        encoding: 'utf8',
      })
      expect([said.status, said.stdout.match(/^[EW]: .*/gm)]).toEqual([0, null])
    })
  },
)

const canInstallRpm = canInstall && rpmName !== undefined && has('rpm')

describe.skipIf(!canInstallRpm)(
  'the rpm package (needs root, rpm, dist/*.rpm, and NSM_DEB_ROOT: a folder with a system)',
  () => {
    useMachine(() => rpm('--initdb'))

    /** The system's own packages are not rpm's: what this one needs is there, and rpm does not know. */
    const rpm = (...words: readonly string[]) =>
      execFileSync('rpm', ['--root', machine.root, '--dbpath', '/var/lib/rpm', ...words], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'pipe'],
      })
    const file = join(dist, rpmName ?? '')

    test('is installed, serves and connects in two namespaces, and is removed without a trace', async () => {
      rpm('--install', '--nodeps', file)
      expect(rpm('--verify', '--nodeps', 'nsm')).toBe('')
      await useIt()
      rpm('--erase', 'nsm')
      expect(readdirSync(join(machine.root, 'var/lib/nsm'))).not.toEqual([])
      rmSync(join(machine.root, 'var/lib/nsm'), { recursive: true })
      expect(machine.paths()).toEqual(before)
    })

    test('is replaced by another build, with the identities kept', async () => {
      rpm('--install', '--nodeps', file)
      await endServe(await machine.startServe())
      rpm('--upgrade', '--replacepkgs', '--nodeps', file)
      expect(rpm('--query', 'nsm').trim().split('\n')).toHaveLength(1)
      await useIt()
      rpm('--erase', 'nsm')
      expect(existsSync(join(machine.root, 'usr/bin/nsm'))).toBe(false)
    })

    test('is the same to rpm as when it was built, and runs no foreign program', () => {
      expect(execFileSync('rpm', ['-K', '--nosignature', file], { encoding: 'utf8' })).toContain('digests OK')
      const scripts = execFileSync('rpm', ['-qp', '--scripts', file], { encoding: 'utf8' })
      expect(scripts.match(/using (\S+)\):$/gm)).toEqual(expect.arrayContaining(['using /bin/sh):']))
      expect(scripts).not.toMatch(/curl|wget|http/)
    })
  },
)
