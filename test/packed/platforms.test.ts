import { type ChildProcess, execFileSync, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { readSignature } from '../../scripts/package/mach-o-signature.ts'
import { isSigned } from '../../scripts/package/portable-executable.ts'
import { targets } from '../../scripts/package/target.ts'
import { commandTable } from '../../src/commands/command-table.ts'
import { rootHelpText } from '../../src/ui/root-help.ts'
import { versionLine } from '../../src/ui/version-info.ts'
import { startedServe } from '../support/started-serve.ts'

/* The executables of the other platforms, as `npm run package -- --all` leaves them. */
const dist = resolve(import.meta.dirname, '../../dist')
const dir = mkdtempSync(join(tmpdir(), 'nsm-platforms-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

const path = (name: string, program = 'nsm') => join(dist, name, program)
/** Of this checkout, not left from an earlier one: `npm run test:packed` says so. */
const isPacked = process.env['NSM_PROGRAM'] !== undefined
const isThere = (name: string, program = 'nsm') => isPacked && existsSync(path(name, program))
const version = JSON.parse(readFileSync(join(dist, '../package.json'), 'utf8')).version
const has = (tool: string) => spawnSync(tool, ['--version']).status === 0
const missing = 'needs npm run package -- --all, then npm run test:packed'
/** With the libraries of Debian's cross compilers (libstdc++6-arm64-cross). */
const emulator = ['qemu-aarch64-static', '-L', '/usr/aarch64-linux-gnu']
const arm = path('linux-arm64')
const canEmulate =
  existsSync(arm) && spawnSync(emulator[0] ?? '', [...emulator.slice(1), arm, '--version']).status === 0

describe.skipIf(!canEmulate)(`the executable for linux-arm64 (${missing}, QEMU and arm64 libraries)`, () => {
  const env = { PATH: process.env['PATH'], NSM_STATE_DIR: join(dir, 'state'), NSM_RUNTIME_DIR: join(dir, 'run') }
  const run = (...words: readonly string[]) => {
    const { status, stdout, stderr } = spawnSync(emulator[0] ?? '', [...emulator.slice(1), arm, ...words], {
      encoding: 'utf8',
      env,
    })
    return { exitCode: status, out: stdout, err: stderr }
  }

  test('says what it is', () => {
    const of = targets.find(({ name }) => name === 'linux-arm64')
    const line = versionLine({ version, system: of?.system ?? '', node: `v${of?.nodeVersion}` })
    expect(run('--version')).toEqual({ exitCode: 0, out: `${line}\n`, err: '' })
    expect(JSON.parse(run('version', '--json').out)).toMatchObject({
      system: 'linux aarch64',
      node: `v${of?.nodeVersion}`,
    })
  })

  test('shows the help of this checkout', () => {
    expect(run('--help')).toEqual({ exitCode: 0, out: `${rootHelpText(commandTable)}\n`, err: '' })
    expect(run('connect', '--help').out).toContain('--join')
  })

  test('loads its native code: cleanup takes the lock', () => {
    expect(run('cleanup')).toMatchObject({ exitCode: 0, out: expect.stringContaining('nothing was left behind') })
  })

  const canConnect = process.getuid?.() === 0 && existsSync(join(dist, 'nsm')) && existsSync('/dev/net/tun')
  test.skipIf(!canConnect)(
    'serves a machine of another processor, to its packets (needs root and dist/nsm)',
    async () => {
      const [server, client] = [`nsmg5-arm-${process.pid}`, `nsmg5-own-${process.pid}`]
      const ip = (...words: readonly string[]) => execFileSync('ip', words, { stdio: 'pipe' })
      for (const name of [server, client]) ip('netns', 'add', name)
      const clientEnv = { ...env, NSM_STATE_DIR: join(dir, 'client'), NSM_RUNTIME_DIR: join(dir, 'client-run') }
      const own = (...words: readonly string[]) =>
        execFileSync('ip', ['netns', 'exec', client, ...words], { env: clientEnv, encoding: 'utf8', stdio: 'pipe' })
      const program = join(dist, 'nsm')
      let serve: ChildProcess | undefined
      try {
        ip('link', 'add', 'v', 'netns', server, 'type', 'veth', 'peer', 'name', 'v', 'netns', client)
        for (const [index, name] of [server, client].entries()) {
          for (const words of [`addr add 192.0.2.${index + 1}/24 dev v`, 'link set v up', 'link set lo up'])
            ip('-n', name, ...words.split(' '))
        }
        const words = ['serve', '--listen', '192.0.2.1:5001', '--advertise', '192.0.2.1']
        const served = await startedServe('ip', ['netns', 'exec', server, ...emulator, arm, ...words], { env })
        serve = served.child
        writeFileSync(join(dir, 'join'), served.out)
        own(program, 'connect', '--join', join(dir, 'join'), '--dns', 'off', '--timeout', '60s', 'my-networkservice-1')
        expect(own('ping', '-c', '1', '-W', '60', '10.64.0.0')).toContain(' 0% packet loss')
        own(program, 'disconnect', '--all')
      } finally {
        serve?.kill('SIGTERM')
        for (const name of [server, client]) ip('netns', 'del', name)
      }
    },
  )
})

describe.skipIf(!isThere('win-x64', 'nsm.exe'))(`the executable for win-x64 (${missing})`, () => {
  const file = path('win-x64', 'nsm.exe')

  test('is a Windows program that carries the parts and no signature of another content', () => {
    const bytes = readFileSync(file)
    expect(isSigned(bytes)).toBe(false)
    expect(bytes.includes('NODE_SEA_BLOB', 0, 'utf16le')).toBe(true)
    expect(bytes.includes(`nsm ${version} (windows_nt x86_64`)).toBe(true)
  })

  test('has native code of Windows alone', () => {
    expect(elfCount(readFileSync(file))).toBe(0)
  })

  test.skipIf(!has('osslsigncode'))('can be signed (needs osslsigncode)', () => {
    const [key, certificate] = [join(dir, 'k.pem'), join(dir, 'c.pem')]
    const subject = ['-subj', '/CN=nsm test', '-addext', 'extendedKeyUsage=codeSigning']
    const made = ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-out', certificate, ...subject]
    execFileSync('openssl', made, { stdio: 'pipe' })
    const signed = join(dir, 'signed.exe')
    const keys = ['-certs', certificate, '-key', key]
    execFileSync('osslsigncode', ['sign', ...keys, '-in', file, '-out', signed], { stdio: 'pipe' })
    const said = execFileSync('osslsigncode', ['verify', '-CAfile', certificate, '-in', signed], { encoding: 'utf8' })
    expect(said).toContain('Succeeded')
  })
})

describe.each(['darwin-arm64', 'darwin-x64'])(`the executable for %s (${missing})`, (name) => {
  test.skipIf(!isThere(name))('is signed ad hoc, every page of it', () => {
    expect(readSignature(readFileSync(path(name)))).toMatchObject({ identifier: 'nsm', isAdHoc: true, wrongPages: 0 })
  })

  test.skipIf(!isThere(name) || !has('llvm-objdump'))(
    'is a program with the parts in a segment of their own (needs llvm-objdump)',
    () => {
      const words = ['--macho', '--private-headers', path(name)]
      const said = execFileSync('llvm-objdump', words, { encoding: 'utf8', maxBuffer: 4 * 1_024 * 1_024 })
      expect(said).toContain('segname NODE_SEA')
      expect(said).toContain('sectname __NODE_SEA_BLOB')
      expect(said).toContain('LC_CODE_SIGNATURE')
      expect(said).toMatch(name === 'darwin-arm64' ? /ARM64/ : /X86_64/)
    },
  )

  test.skipIf(!isThere(name))('has no native code of Linux inside', () => {
    expect(elfCount(readFileSync(path(name)))).toBe(0)
  })
})

/** How many ELF libraries of Linux lie in a file: their header, of 64 bits and of the kind that is loaded. */
function elfCount(bytes: Buffer): number {
  let found = 0
  const header = Buffer.from('\x7fELF\x02\x01\x01', 'latin1')
  for (let at = bytes.indexOf(header); at >= 0; at = bytes.indexOf(header, at + 1))
    if (bytes.readUInt16LE(at + 16) === 3) found++
  return found
}
