import { type ChildProcess, execFile, execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const root = resolve(import.meta.dirname, '../..')
const dist = join(root, 'dist')
/** A system without Node, npm or this checkout: debootstrap --variant=minbase --include=iproute2 bookworm FOLDER. */
const system = process.env['NSM_DEB_ROOT'] ?? ''
const unit = join(root, 'installers/deb/nsm-serve.service')

const packageName = () => readdirSync(dist).find((name) => name.endsWith('.deb')) ?? ''
const canInstall = system !== '' && process.getuid?.() === 0 && packageName() !== ''

describe('the unit of the server', () => {
  const hasSystemd = spawnSync('systemd-analyze', ['--version']).status === 0

  test.skipIf(!hasSystemd)('is one that systemd takes, and exposes little (needs systemd-analyze)', () => {
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

describe.skipIf(!canInstall)(
  'the Debian package (needs root, dist/*.deb, and NSM_DEB_ROOT: a debootstrap folder)',
  () => {
    const dir = mkdtempSync(join(tmpdir(), 'nsm-deb-'))
    const machine = join(dir, 'root')
    const undo: (() => void)[] = []
    let before: readonly string[] = []
    const namespaces = ['nsmp-a', 'nsmp-b'] as const

    beforeAll(() => {
      for (const name of ['root', 'upper', 'work']) mkdirSync(join(dir, name))
      const layers = `lowerdir=${system},upperdir=${join(dir, 'upper')},workdir=${join(dir, 'work')}`
      mount('-t', 'overlay', 'overlay', '-o', layers, machine)
      mount('-t', 'proc', 'none', join(machine, 'proc'))
      mount('--bind', '/dev', join(machine, 'dev'))
      for (const name of ['run', 'tmp']) mount('-t', 'tmpfs', 'none', join(machine, name))
      before = allPaths()
      copyFileSync(join(dist, packageName()), join(machine, 'tmp/nsm.deb'))
      for (const [index, name] of namespaces.entries()) {
        ip('netns', 'add', name)
        undo.push(() => ip('netns', 'del', name))
        ip('-n', name, 'link', 'set', 'lo', 'up')
        if (index === 1)
          ip('link', 'add', 'v', 'netns', namespaces[0], 'type', 'veth', 'peer', 'name', 'v', 'netns', name)
      }
      for (const [index, name] of namespaces.entries()) {
        ip('-n', name, 'addr', 'add', `192.0.2.${index + 1}/24`, 'dev', 'v')
        ip('-n', name, 'link', 'set', 'v', 'up')
      }
    })
    afterAll(() => {
      for (const act of undo.reverse()) act()
      rmSync(dir, { recursive: true, force: true })
    })

    test('is installed, serves and connects in two namespaces, and is removed without a trace', async () => {
      expect((await inside('a', 'sh', '-c', 'command -v node npm git')).out).toBe('')
      expect(await inside('a', 'dpkg', '-i', '/tmp/nsm.deb')).toMatchObject({ exitCode: 0, err: '' })
      const server = await startServe()
      const elsewhere = ['env', 'NSM_STATE_DIR=/var/lib/nsm-b', 'NSM_RUNTIME_DIR=/run/nsm-b', 'nsm']
      const connected = await inside(
        'b',
        ...elsewhere,
        'connect',
        '--join',
        '/tmp/join',
        'my-networkservice-1',
        '--json',
      )
      expect([connected.exitCode, connected.err]).toEqual([0, expect.anything()])
      expect(JSON.parse((await inside('b', ...elsewhere, 'status', '--json')).out).connections[0].state).toBe('up')
      expect((await inside('a', 'nsm', 'invite')).out).toContain('nsm://')
      expect((await inside('b', ...elsewhere, 'disconnect', '--all')).exitCode).toBe(0)
      server.kill('SIGTERM')
      await once(server, 'exit')
      rmSync(join(machine, 'var/lib/nsm-b'), { recursive: true })
      expect(await inside('a', 'dpkg', '--purge', 'nsm')).toMatchObject({ exitCode: 0, err: '' })
      expect(allPaths()).toEqual(before)
    })

    test('is upgraded in place, and keeps the identities when it is removed but not purged', async () => {
      for (let times = 0; times < 2; times++) expect((await inside('a', 'dpkg', '-i', '/tmp/nsm.deb')).exitCode).toBe(0)
      const server = await startServe()
      server.kill('SIGTERM')
      await once(server, 'exit')
      expect((await inside('a', 'dpkg', '--remove', 'nsm')).exitCode).toBe(0)
      expect(readdirSync(join(machine, 'var/lib/nsm'))).not.toEqual([])
      expect((await inside('a', 'sh', '-c', 'command -v nsm')).out).toBe('')
      expect((await inside('a', 'dpkg', '--purge', 'nsm')).exitCode).toBe(0)
      expect(allPaths()).toEqual(before)
    })

    function mount(...args: readonly string[]): void {
      execFileSync('mount', args)
      undo.push(() => execFileSync('umount', ['--lazy', args.at(-1) ?? '']))
    }

    function ip(...args: readonly string[]): void {
      execFileSync('ip', args)
    }

    /** What dpkg itself writes down is not the package's. */
    function allPaths(): readonly string[] {
      const own = ['lib/dpkg', 'log', 'cache'].flatMap((name) => ['-path', `./var/${name}`, '-prune', '-o'])
      return execFileSync('find', ['.', '-xdev', ...own, '-print'], { cwd: machine, encoding: 'utf8' })
        .split('\n')
        .sort()
    }

    const place = (name: string) => ['netns', 'exec', `nsmp-${name}`, 'chroot', machine]
    const env = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' }

    function inside(
      name: string,
      ...words: readonly string[]
    ): Promise<{ exitCode: number; out: string; err: string }> {
      return new Promise((settle) => {
        const child = execFile('ip', [...place(name), ...words], { env }, (_error, out, err) =>
          settle({ exitCode: child.exitCode ?? -1, out, err }),
        )
      })
    }

    /** Its join string is in /tmp/join then. */
    async function startServe(): Promise<ChildProcess> {
      const words = ['nsm', 'serve', '--listen', '192.0.2.1:5001', '--advertise', '192.0.2.1']
      const child = spawn('ip', [...place('a'), ...words], { env, stdio: ['ignore', 'pipe', 'inherit'] })
      let out = ''
      for await (const part of child.stdout) {
        out += part
        if (out.includes('nsm://') && out.endsWith('\n')) break
      }
      writeFileSync(join(machine, 'tmp/join'), out)
      return child
    }
  },
)
