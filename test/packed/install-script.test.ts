import { execFile, execFileSync, spawnSync } from 'node:child_process'
import { hash } from 'node:crypto'
import { once } from 'node:events'
import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer as createPlainServer, type Server as PlainServer } from 'node:http'
import { createServer, type Server } from 'node:https'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'

const script = resolve(import.meta.dirname, '../../installers/install.sh')
const dir = mkdtempSync(join(tmpdir(), 'nsm-install-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))
const hasMinisign = spawnSync('sh', ['-c', 'command -v minisign']).status === 0
const hasWget = spawnSync('wget', ['--version']).status === 0
const mayMount = spawnSync('unshare', ['--user', '--map-root-user', '--mount', 'true']).status === 0
const platform = `linux-${process.arch}`
const archive = `nsm-1.2.3-${platform}.tar.xz`

/** A release whose program is a script, for nothing here is about what the program does. */
const pristine = join(dir, 'pristine')
const release = join(dir, 'release')
const target = join(dir, 'target')
let key = ''

beforeAll(() => {
  mkdirSync(join(pristine, `nsm-1.2.3-${platform}`), { recursive: true })
  writeProgram(pristine, 'echo nsm 1.2.3')
  if (!hasMinisign) return
  for (const name of ['own', 'other'])
    execFileSync('minisign', ['-G', '-W', '-p', join(dir, `${name}.pub`), '-s', join(dir, `${name}.key`)])
  key = readFileSync(join(dir, 'own.pub'), 'utf8').split('\n')[1] ?? ''
  sign(pristine, 'own')
})
beforeEach(() => {
  for (const folder of [release, target]) rmSync(folder, { recursive: true, force: true })
  cpSync(pristine, release, { recursive: true })
  mkdirSync(target)
})

function writeProgram(folder: string, body: string): void {
  writeFileSync(join(folder, `nsm-1.2.3-${platform}/nsm`), `#!/bin/sh\n${body}\n`, { mode: 0o755 })
  execFileSync('tar', ['-cJf', join(folder, archive), '-C', folder, `nsm-1.2.3-${platform}`])
  writeSums(folder)
}

function writeSums(folder: string): void {
  const sum = hash('sha256', readFileSync(join(folder, archive)))
  const others = `${hash('sha256', 'x')}  nsm-1.2.3-win-x64.zip\n`
  writeFileSync(join(folder, 'SHA256SUMS'), `${sum}  ${archive}\n${others}`)
}

function sign(folder: string, name: string): void {
  execFileSync('minisign', ['-S', '-s', join(dir, `${name}.key`), '-m', join(folder, 'SHA256SUMS')])
}

const signed = () => ['--key', key]
function install(words: readonly string[], from = release, env: NodeJS.ProcessEnv = process.env) {
  const args = [script, '--from', from, '--to', target, ...words]
  const { status, stdout, stderr } = spawnSync('sh', args, { encoding: 'utf8', cwd: dir, env })
  return { exitCode: status, out: stdout, err: stderr }
}
const nothingInstalled = () => expect(readdirSync(target)).toEqual([])

describe.skipIf(!hasMinisign)('install.sh with a key (needs minisign)', () => {
  test('installs what is signed, to be run by everybody, and leaves nothing else', () => {
    expect(install(signed())).toMatchObject({ exitCode: 0, err: '' })
    expect(readdirSync(target)).toEqual(['nsm'])
    expect(statSync(join(target, 'nsm')).mode & 0o777).toBe(0o755)
    expect(execFileSync(join(target, 'nsm'), { encoding: 'utf8' })).toBe('nsm 1.2.3\n')
  })

  test('replaces an older program in one step, also where a link is in its place', () => {
    const elsewhere = join(dir, 'elsewhere')
    writeFileSync(elsewhere, 'mine')
    symlinkSync(elsewhere, join(target, 'nsm'))
    expect(install(signed()).exitCode).toBe(0)
    expect(readFileSync(elsewhere, 'utf8')).toBe('mine')
    expect(statSync(join(target, 'nsm')).isFile()).toBe(true)
  })

  const tampered: readonly (readonly [string, () => void, string])[] = [
    [
      'another archive than the sums say',
      () => appendFileSync(join(release, archive), 'x'),
      'is not what SHA256SUMS says',
    ],
    ['sums that were changed', () => appendFileSync(join(release, 'SHA256SUMS'), '#\n'), 'is not of this key'],
    [
      'a whole release of somebody else',
      () => {
        writeProgram(release, 'echo PLANTED')
        rmSync(join(release, 'SHA256SUMS.minisig'))
        sign(release, 'other')
      },
      'is not of this key',
    ],
    ['no signature', () => rmSync(join(release, 'SHA256SUMS.minisig')), 'cannot get'],
    ['no sums', () => rmSync(join(release, 'SHA256SUMS')), 'cannot get'],
    ['no archive', () => rmSync(join(release, archive)), 'cannot get'],
  ]
  test.each(tampered)('refuses %s, and installs nothing', (_what, change, why) => {
    change()
    const { exitCode, err } = install(signed())
    expect([exitCode, err]).toEqual([1, expect.stringContaining(why)])
    nothingInstalled()
  })

  test('runs nothing of what it has not verified', () => {
    const seen = join(dir, 'ran')
    writeProgram(release, `touch '${seen}'`)
    expect(install(signed()).exitCode).toBe(1)
    expect(existsSync(seen)).toBe(false)
  })

  const signedBadly: readonly (readonly [string, () => void, string])[] = [
    ['a program that does not start', () => writeProgram(release, 'exit 3'), 'does not start on this machine'],
    [
      'sums with two archives of a platform',
      () => appendFileSync(join(release, 'SHA256SUMS'), `${hash('sha256', 'x')}  nsm-1.2.4-${platform}.tar.xz\n`),
      'more than one archive',
    ],
    [
      'sums without this platform',
      () => writeFileSync(join(release, 'SHA256SUMS'), `${hash('sha256', 'x')}  nsm-1.2.3-win-x64.zip\n`),
      `nothing for ${platform}`,
    ],
    [
      'sums whose name leads elsewhere',
      () => writeFileSync(join(release, 'SHA256SUMS'), `${hash('sha256', 'x')}  nsm-1/../../x-${platform}.tar.xz\n`),
      `nothing for ${platform}`,
    ],
    [
      'an archive that is none',
      () => {
        writeFileSync(join(release, archive), 'none')
        writeSums(release)
      },
      'cannot be unpacked',
    ],
  ]
  test.each(signedBadly)('says what is wrong with %s, though it is signed', (_what, change, why) => {
    change()
    sign(release, 'own')
    const { exitCode, err } = install(signed())
    expect([exitCode, err]).toEqual([1, expect.stringContaining(why)])
    nothingInstalled()
  })

  test('takes the version that is asked for, or nothing', () => {
    expect(install([...signed(), '--version', '1.2.3']).exitCode).toBe(0)
    const { exitCode, err } = install([...signed(), '--version', '1.2.4'])
    expect([exitCode, err]).toEqual([1, expect.stringContaining('not version 1.2.4')])
  })

  test('says that the signature cannot be verified where minisign is missing', () => {
    const bin = join(dir, 'bin')
    mkdirSync(bin, { recursive: true })
    for (const tool of ['sh', 'id', 'uname', 'ls', 'mktemp', 'cp', 'rm'])
      symlinkSync(execFileSync('which', [tool], { encoding: 'utf8' }).trim(), join(bin, tool))
    const { exitCode, err } = install(signed(), release, { PATH: bin })
    expect([exitCode, err]).toEqual([1, expect.stringContaining('minisign is not installed')])
    nothingInstalled()
  })

  test('keeps its scratch folder from others and takes it away, also when it fails', () => {
    const scratch = join(dir, 'scratch')
    mkdirSync(scratch)
    rmSync(join(release, archive))
    expect(install(signed(), release, { ...process.env, TMPDIR: scratch }).exitCode).toBe(1)
    expect(readdirSync(scratch)).toEqual([])
  })

  test.skipIf(!mayMount)('installs where no program may be run in the scratch folder (needs namespaces)', () => {
    const scratch = join(dir, 'noexec')
    mkdirSync(scratch)
    const words = [script, '--from', release, '--to', target, ...signed()]
    const own = ['--user', '--map-root-user', '--mount', 'sh', '-c']
    const steps = `mount -t tmpfs -o noexec none '${scratch}' && TMPDIR='${scratch}' exec sh "$@"`
    const { status, stderr } = spawnSync('unshare', [...own, steps, 'sh', ...words], { encoding: 'utf8' })
    expect([status, stderr]).toEqual([0, ''])
    expect(readdirSync(target)).toEqual(['nsm'])
  })

  test('says so when a folder is in its place, and leaves nothing in it', () => {
    mkdirSync(join(target, 'nsm'))
    const { exitCode, err } = install(signed())
    expect([exitCode, err]).toEqual([1, expect.stringContaining('is a folder')])
    expect(readdirSync(target, { recursive: true })).toEqual(['nsm'])
  })

  test.skipIf(process.getuid?.() === 0)('says so when the folder cannot be written (not as root)', () => {
    chmodSync(target, 0o500)
    expect(install(signed()).exitCode).not.toBe(0)
    chmodSync(target, 0o700)
  })
})

describe('install.sh', () => {
  test('installs by the sums alone only when it is told to', () => {
    expect(install([])).toMatchObject({ exitCode: 2, err: expect.stringContaining('--key') })
    nothingInstalled()
    expect(install(['--unsigned'])).toMatchObject({ exitCode: 0, out: expect.stringContaining('nsm 1.2.3') })
    appendFileSync(join(release, archive), 'x')
    expect(install(['--unsigned']).exitCode).toBe(1)
  })

  test.each([
    ['a place that others can change on the way', ['--unsigned', '--from', 'http://example.org'], 'https'],
    ['an unknown option', ['--nothing'], 'no option --nothing'],
    ['an option without its value', ['--key'], '--key needs a value'],
  ])('refuses %s', (_what, words, why) => {
    expect(install(words)).toMatchObject({ exitCode: 2, err: expect.stringContaining(why) })
    nothingInstalled()
  })

  test('takes the values of options as they are', () => {
    const odd = join(dir, 'a $(touch x) `b`')
    cpSync(release, odd, { recursive: true })
    expect(install(['--unsigned'], odd).exitCode).toBe(0)
    expect(existsSync(join(dir, 'x'))).toBe(false)
  })
})

const canServe = ['openssl', 'curl'].every((tool) => spawnSync('sh', ['-c', `command -v ${tool}`]).status === 0)

describe.skipIf(!canServe)('install.sh from a server (needs openssl and curl)', () => {
  const [serverKey, certificate] = [join(dir, 'server.key'), join(dir, 'server.pem')]
  let server: Server
  let base = ''
  /** Gives the same files to whoever follows a redirect there. */
  let plain: PlainServer
  let plainBase = ''
  const installFrom = (path: string, bundle: string, more: NodeJS.ProcessEnv = {}) =>
    new Promise<{ readonly exitCode: number | null; readonly err: string }>((settle) => {
      const env = { ...process.env, CURL_CA_BUNDLE: bundle, ...more }
      const words = [script, '--unsigned', '--from', `${base}/${path}`, '--to', target]
      const child = execFile('sh', words, { env }, (_error, _out, err) => settle({ exitCode: child.exitCode, err }))
    })

  beforeAll(async () => {
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost']
    const made = [
      'req',
      '-x509',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-keyout',
      serverKey,
      '-out',
      certificate,
      ...subject,
    ]
    execFileSync('openssl', made, { stdio: 'pipe' })
    plain = createPlainServer((request, response) => {
      response.end(readFileSync(join(release, basename(request.url ?? ''))))
    })
    plainBase = `http://localhost:${await portOf(plain)}`
    server = createServer({ key: readFileSync(serverKey), cert: readFileSync(certificate) }, (request, response) => {
      const [, folder, name = ''] = (request.url ?? '').split('/')
      const path = join(release, name)
      if (folder === 'down') response.writeHead(302, { location: plainBase + (request.url ?? '') }).end()
      else if (folder === 'release' && existsSync(path)) response.end(readFileSync(path))
      else response.writeHead(404).end('not here')
    })
    base = `https://localhost:${await portOf(server)}`
  })
  afterAll(() => {
    for (const one of [server, plain]) one?.close()
  })

  async function portOf(listener: PlainServer | Server): Promise<number> {
    listener.listen(0, 'localhost')
    await once(listener, 'listening')
    const address = listener.address()
    return typeof address === 'object' ? (address?.port ?? 0) : 0
  }

  test('installs what it gets', async () => {
    expect(await installFrom('release', certificate)).toMatchObject({ exitCode: 0, err: '' })
    expect(readdirSync(target)).toEqual(['nsm'])
  })

  test('takes no page that says "not here" for a file', async () => {
    const { exitCode, err } = await installFrom('elsewhere', certificate)
    expect([exitCode, err]).toEqual([1, expect.stringContaining('cannot get')])
    nothingInstalled()
  })

  test('follows no way that others can change', async () => {
    const { exitCode, err } = await installFrom('down', certificate)
    expect([exitCode, err]).toEqual([1, expect.stringMatching(/http.*not supported|disabled/i)])
    nothingInstalled()
  })

  test.skipIf(!hasWget)('does neither with wget (needs wget)', async () => {
    const bin = join(dir, 'without-curl')
    mkdirSync(bin)
    const tools = 'sh id uname ls mktemp cp rm wget sed wc grep cut sha256sum tar xz mkdir chmod mv'
    for (const tool of tools.split(' '))
      symlinkSync(execFileSync('which', [tool], { encoding: 'utf8' }).trim(), join(bin, tool))
    const settings = join(dir, 'wgetrc')
    writeFileSync(settings, `ca_certificate = ${certificate}\n`)
    const env = { PATH: bin, WGETRC: settings }
    const { exitCode, err } = await installFrom('down', certificate, env)
    expect([exitCode, err]).toEqual([1, expect.stringContaining('cannot get')])
    nothingInstalled()
    expect(await installFrom('release', certificate, env)).toMatchObject({ exitCode: 0, err: '' })
  })

  test('refuses a server that nobody vouches for', async () => {
    const { exitCode, err } = await installFrom('release', '/etc/ssl/certs/ca-certificates.crt')
    expect([exitCode, err]).toEqual([1, expect.stringContaining('certificate')])
    nothingInstalled()
  })
})
