import { execFile, execFileSync, spawnSync } from 'node:child_process'
import { hash } from 'node:crypto'
import { once } from 'node:events'
import {
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type Server } from 'node:https'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { rootWords } from '../../installers/ci/github/job.ts'
import { verifyMinisign } from '../../installers/ci/github/minisign.ts'
import { archiveOf, fetchProgram, type Proof } from '../../installers/ci/github/release.ts'

const ci = resolve(import.meta.dirname, '../../installers/ci')
const name = 'nsm-1.2.3-linux-x64'
const isRoot = process.getuid?.() === 0
const none: Proof = { key: '', sha256: '' }
/** A program that says with what it was called. */
const program = '#!/bin/sh\necho ran "$@" with "$NSM_JOIN_STRING" "$NSM_ID_TOKEN"\nexit "$((NSM_TEST_CODE))"\n'

let dir = ''
let from = ''
let sha256 = ''
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nsm-ci-'))
  from = join(dir, 'release')
  mkdirSync(join(dir, name))
  mkdirSync(from)
  writeFileSync(join(dir, name, 'nsm'), program, { mode: 0o755 })
  writeFileSync(join(dir, name, 'LICENSE'), '')
  execFileSync('tar', ['-cJf', join(from, `${name}.tar.xz`), '-C', dir, name])
  sha256 = hash('sha256', readFileSync(join(from, `${name}.tar.xz`)))
  writeSums(sha256)
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

const writeSums = (sum: string) => writeFileSync(join(from, 'SHA256SUMS'), `${sum}  ${name}.tar.xz\n`)

function fetchTo(folder: string, proof: Proof, version = '', source = from): Promise<string> {
  mkdirSync(join(dir, folder), { recursive: true })
  return fetchProgram({ from: source, version, proof, platform: 'linux-x64' }, join(dir, folder))
}

describe('fetchProgram', () => {
  test('gives the program alone when the archive is the promised one', async () => {
    const path = await fetchTo('to', { ...none, sha256: sha256.toUpperCase() }, '1.2.3')
    expect(readdirSync(join(dir, 'to'))).toEqual(['nsm'])
    expect(spawnSync(path, ['x'], { encoding: 'utf8' }).stdout).toMatch(/^ran x/)
  })

  test.each<[string, Proof, string, string, () => void]>([
    ['nothing says which release is right', none, '', 'USAGE', () => {}],
    ['the archive is another one', { ...none, sha256: '0'.repeat(64) }, '', 'REFUSED', () => {}],
    ['the version is another one', { ...none, sha256: 'own' }, '1.2.4', 'REFUSED', () => {}],
    ['the sums say otherwise', { ...none, sha256: 'own' }, '', 'REFUSED', () => writeSums('1'.repeat(64))],
    [
      'the sums name nothing',
      { ...none, sha256: 'own' },
      '',
      'NOT_FOUND',
      () => writeFileSync(join(from, 'SHA256SUMS'), ''),
    ],
    [
      'the archive is not there',
      { ...none, sha256: 'own' },
      '',
      'UNREACHABLE',
      () => rmSync(join(from, `${name}.tar.xz`)),
    ],
  ])('refuses, and leaves no program, when %s', async (_why, proof, version, code, spoil) => {
    spoil()
    const own = proof.sha256 === 'own' ? { ...proof, sha256 } : proof
    await expect(fetchTo('to', own, version)).rejects.toMatchObject({ code })
    expect(readdirSync(join(dir, 'to'))).toEqual([])
  })

  test.each(['http://example.org/x', 'ftp://example.org', 'release'])('takes nothing from %s', async (source) => {
    await expect(fetchTo('to', { ...none, sha256 }, '', source)).rejects.toMatchObject({ code: 'USAGE' })
  })

  test('takes nothing out of the archive but the program, and no link in its place', async () => {
    const before = statSync('/bin/sh').mode
    rmSync(join(dir, name, 'nsm'))
    symlinkSync('/bin/sh', join(dir, name, 'nsm'))
    writeFileSync(join(dir, 'evil'), '')
    execFileSync('tar', ['-cJPf', join(from, `${name}.tar.xz`), '-C', dir, name, 'evil'])
    const sum = hash('sha256', readFileSync(join(from, `${name}.tar.xz`)))
    writeSums(sum)
    await expect(fetchTo('to', { ...none, sha256: sum })).rejects.toMatchObject({ code: 'REFUSED' })
    expect(readdirSync(join(dir, 'to'))).not.toContain('evil')
    expect(statSync('/bin/sh').mode).toBe(before)
  })
})

const canServe = ['openssl', 'curl'].every((tool) => spawnSync('sh', ['-c', `command -v ${tool}`]).status === 0)

describe.skipIf(!canServe)('a release from a server (needs openssl and curl)', () => {
  const own = mkdtempSync(join(tmpdir(), 'nsm-ci-server-'))
  const [key, certificate] = [join(own, 'key.pem'), join(own, 'certificate.pem')]
  const before = getCACertificates()
  let server: Server
  let base = ''
  const asked: string[] = []
  beforeAll(async () => {
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost']
    const words = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes']
    execFileSync('openssl', [...words, '-keyout', key, '-out', certificate, ...subject], { stdio: 'pipe' })
    setDefaultCACertificates([...before, readFileSync(certificate, 'utf8')])
    server = createServer({ key: readFileSync(key), cert: readFileSync(certificate) }, (request, response) => {
      const [, folder = '', file = ''] = (request.url ?? '').split('/')
      asked.push(folder)
      const hops = Number(/^hops(\d+)$/.exec(folder)?.[1] ?? '-1')
      if (hops >= 0) response.writeHead(302, { location: `/${hops > 0 ? `hops${hops - 1}` : 'release'}/${file}` }).end()
      else if (folder === 'loop') response.writeHead(302, { location: request.url }).end()
      else if (folder === 'plain') response.writeHead(302, { location: `http://localhost:1/${file}` }).end()
      else if (folder === `endless-${file.split('.').at(-1)}`) endless()
      else if (folder === 'broken') response.writeHead(200, { 'content-length': 9_999 }).write('half')
      else response.end(readFileSync(join(from, file)))
      if (folder === 'broken') response.destroy()

      /** Until whoever asked has enough. */
      function endless(): void {
        const part = Buffer.alloc(1_024 * 1_024)
        const more = () => {
          while (!response.destroyed && response.write(part));
        }
        response.on('drain', more)
        more()
      }
    })
    server.listen(0, 'localhost')
    await once(server, 'listening')
    const address = server.address()
    base = `https://localhost:${typeof address === 'object' ? address?.port : ''}`
  })
  afterAll(() => {
    server?.close()
    setDefaultCACertificates(before)
    rmSync(own, { recursive: true, force: true })
  })

  test.each(['release', 'hops4'])('is fetched by the Action from %s', async (folder) => {
    const path = await fetchTo('to', { ...none, sha256 }, '', `${base}/${folder}`)
    expect(readFileSync(path, 'utf8')).toBe(program)
  })

  test.each([
    ['endless-SHA256SUMS', 'REFUSED', 'more than 65536 bytes'],
    ['endless-xz', 'REFUSED', 'more than 134217728 bytes'],
    ['loop', 'REFUSED', 'leads to'],
    ['hops5', 'REFUSED', 'leads to'],
    ['plain', 'REFUSED', 'leads to http:'],
    ['broken', 'UNREACHABLE', 'cannot be fetched'],
  ])('is refused by the Action, and leaves nothing, when the server is %s', async (folder, code, message) => {
    const refused = fetchTo('to', { ...none, sha256 }, '', `${base}/${folder}`)
    await expect(refused).rejects.toMatchObject({ code, message: expect.stringContaining(message) })
    expect(readdirSync(join(dir, 'to'))).toEqual([])
  })

  test('gives the Action six chances to lead elsewhere, and no seventh', async () => {
    asked.length = 0
    await expect(fetchTo('to', { ...none, sha256 }, '', `${base}/loop`)).rejects.toMatchObject({ code: 'REFUSED' })
    expect(asked).toEqual(Array.from({ length: 6 }, () => 'loop'))
  })

  /** The script of a job, or the one that installs; the server answers from this process. */
  function script(words: readonly string[], more: NodeJS.ProcessEnv) {
    const env = { PATH: process.env['PATH'], CURL_CA_BUNDLE: certificate, TMPDIR: dir, ...more }
    return new Promise<{ readonly status: number | null; readonly said: string }>((settle) => {
      const child = execFile('sh', words, { env }, (_error, out, err) =>
        settle({ status: child.exitCode, said: out + err }),
      )
    })
  }

  const cut = ['endless-SHA256SUMS', 'endless-xz', 'loop', 'plain', 'broken']
  test.each(cut)("is refused by GitLab's template, which runs nothing, when the server is %s", async (folder) => {
    const template = parse(readFileSync(join(ci, 'gitlab/nsm.gitlab-ci.yml'), 'utf8'))['.nsm']
    const job = {
      CI_JOB_ID: '78',
      NSM_FROM: `${base}/${folder}`,
      NSM_VERSION: '1.2.3',
      NSM_SHA256: sha256,
      NSM_KEY: 'x',
    }
    const { status, said } = await script(['-c', template.before_script.join('\n')], job)
    expect([status, said]).toEqual([7, expect.not.stringContaining('ran connect')])
  })

  test.each(cut)('is refused by install.sh, which puts nothing in place, when the server is %s', async (folder) => {
    const to = join(dir, 'to')
    mkdirSync(to)
    const words = [join(ci, '../install.sh'), '--unsigned', '--from', `${base}/${folder}`, '--to', to]
    const { status, said } = await script(words, {})
    expect([status, said]).toEqual([1, expect.stringContaining('cannot get')])
    expect(readdirSync(to)).toEqual([])
  })
})

describe('archiveOf', () => {
  test('finds the one archive of the platform among other files', () => {
    const lines = [
      `${'b'.repeat(64)}  nsm`,
      `${'c'.repeat(64)}  nsm-2.0.0-linux-arm64.tar.xz`,
      `${'a'.repeat(64)}  ${name}.tar.xz`,
    ]
    expect(archiveOf(`${lines.join('\n')}\n`, 'linux-x64', '')).toEqual({ name, sum: 'a'.repeat(64) })
  })

  test('names no path, whatever the sums say', () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom('/', '..', 'nsm-', '1', '-linux-x64', '.tar.xz', ' ', '\n', 'a'.repeat(64))),
        (parts) => {
          try {
            expect(archiveOf(parts.join(''), 'linux-x64', '').name).toMatch(/^nsm-[\w.+-]+$/)
          } catch (error) {
            expect(error).toMatchObject({ code: 'NOT_FOUND' })
          }
        },
      ),
    )
  })
})

const hasMinisign = spawnSync('minisign', ['-v']).status === 0

describe.skipIf(!hasMinisign)('verifyMinisign (needs minisign)', () => {
  const keys = mkdtempSync(join(tmpdir(), 'nsm-ci-keys-'))
  afterAll(() => rmSync(keys, { recursive: true, force: true }))
  const publicKey = (which: string) => readFileSync(join(keys, `${which}.pub`), 'utf8').split('\n')[1] ?? ''
  beforeAll(() => {
    for (const which of ['ours', 'other'])
      execFileSync('minisign', ['-G', '-W', '-p', join(keys, `${which}.pub`), '-s', join(keys, which)])
  })

  function sign(path: string, ...more: readonly string[]): string {
    execFileSync('minisign', ['-S', '-W', '-s', join(keys, 'ours'), '-m', path, '-t', 'release 1', ...more], {
      stdio: 'pipe',
    })
    return readFileSync(`${path}.minisig`, 'utf8')
  }

  test.each([[[]], [['-l']]])("takes minisign's own signature, made with %j", (more) => {
    const path = join(from, 'SHA256SUMS')
    const signature = sign(path, ...more)
    expect(() => verifyMinisign(readFileSync(path), signature, publicKey('ours'))).not.toThrow()
  })

  test('refuses another key, another text, and each change of the signature', () => {
    const path = join(from, 'SHA256SUMS')
    const signature = sign(path)
    const content = readFileSync(path)
    const refused = expect.objectContaining({ code: 'REFUSED' })
    expect(() => verifyMinisign(content, signature, publicKey('other'))).toThrow(refused)
    expect(() => verifyMinisign(Buffer.from('else'), signature, publicKey('ours'))).toThrow(refused)
    expect(() => verifyMinisign(content, signature.replace('release 1', 'release 2'), publicKey('ours'))).toThrow(
      refused,
    )
    const lines = signature.split('\n')
    fc.assert(
      fc.property(fc.constantFrom(1, 3), fc.nat(), fc.integer({ min: 1, max: 255 }), (line, at, change) => {
        const bytes = Buffer.from(lines[line] ?? '', 'base64')
        const index = at % bytes.length
        bytes.writeUInt8(bytes.readUInt8(index) ^ change, index)
        const changed = lines.with(line, bytes.toString('base64')).join('\n')
        expect(() => verifyMinisign(content, changed, publicKey('ours'))).toThrow(refused)
      }),
    )
  })

  test.each(['', 'RW', 'x'.repeat(56), 'RWQ='])('says that %j is no key', (key) => {
    expect(() => verifyMinisign(Buffer.alloc(0), '', key)).toThrow(expect.objectContaining({ code: 'USAGE' }))
  })

  test('a release is believed by its signature alone, and not when it has none', async () => {
    const proof = { ...none, key: publicKey('ours') }
    await expect(fetchTo('to', proof)).rejects.toMatchObject({ code: 'UNREACHABLE' })
    sign(join(from, 'SHA256SUMS'))
    expect(readFileSync(await fetchTo('to', proof), 'utf8')).toBe(program)
    writeSums('2'.repeat(64))
    await expect(fetchTo('again', proof)).rejects.toMatchObject({ code: 'REFUSED' })
  })
})

describe('rootWords', () => {
  test('are the program alone for root', () => {
    expect(rootWords('/x/nsm', { NSM_JOIN_STRING: 'nsm://' }, 0)).toEqual(['/x/nsm'])
  })

  test('name the variables that the program needs and say none of their values', () => {
    const secrets = { NSM_JOIN_STRING: 'SECRET', ACTIONS_ID_TOKEN_REQUEST_TOKEN: 'SECRET', GITHUB_ACTIONS: 'true' }
    const words = rootWords('/x/nsm', { ...secrets, PATH: '/bin', LD_PRELOAD: 'x', NODE_OPTIONS: 'x' }, 1_000)
    const names = 'NSM_JOIN_STRING,ACTIONS_ID_TOKEN_REQUEST_TOKEN,GITHUB_ACTIONS'
    expect(words).toEqual(['sudo', '--non-interactive', `--preserve-env=${names}`, '--', '/x/nsm'])
  })
})

describe("GitLab's template", () => {
  const template = parse(readFileSync(join(ci, 'gitlab/nsm.gitlab-ci.yml'), 'utf8'))['.nsm']
  const shells = ['sh', 'bash', 'dash'].filter((shell) => spawnSync(shell, ['-c', ':']).status === 0)

  function run(
    part: 'before_script' | 'after_script',
    more: NodeJS.ProcessEnv = {},
    [shell = 'sh', ...flags]: readonly string[] = [],
  ) {
    const job = {
      CI_JOB_ID: '77',
      TMPDIR: dir,
      NSM_NETWORK_SERVICES: 'blue',
      NSM_JOIN_STRING: 'nsm://x',
      NSM_ID_TOKEN: 'a.b.c',
    }
    const env = { PATH: process.env['PATH'], ...job, NSM_FROM: from, NSM_VERSION: '1.2.3', NSM_SHA256: sha256, ...more }
    const script = [...template[part], ...(part === 'before_script' ? ['echo the job goes on'] : [])].join('\n')
    return spawnSync(shell, [...flags, '-c', script], { env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  }

  test('orders a token for the trust domain of the server', () => {
    expect(template.id_tokens).toEqual({ NSM_ID_TOKEN: { aud: 'nsm://$NSM_TRUST_DOMAIN' } })
  })

  test.each(shells)('connects before the job and leaves nothing behind it, in %s', (shell) => {
    const before = run('before_script', {}, [shell])
    expect(before).toMatchObject({ status: 0, stderr: '', stdout: 'ran connect with nsm://x a.b.c\nthe job goes on\n' })
    expect(readdirSync(join(dir, 'nsm-77'))).toEqual(['connected', 'nsm'])
    expect(run('after_script', {}, [shell]).stdout).toMatch(/^ran disconnect --all with.*\nran logout with.*\n$/)
    expect(readdirSync(dir)).not.toContain('nsm-77')
  })

  test.each([
    ['the archive is another one', { NSM_SHA256: '0'.repeat(64) }, 5],
    ['the way there is open to changes', { NSM_FROM: 'http://example.org' }, 2],
    ['the release is not there', { NSM_VERSION: '9.9.9' }, 7],
    ['nothing says which release', { NSM_SHA256: undefined }, 2],
    ['the program says no', { NSM_TEST_CODE: '6' }, 6],
  ])('ends the job when %s', (_why, more, code) => {
    const { status, stdout } = run('before_script', more)
    expect([status, stdout.includes('goes on')]).toEqual([code, false])
    expect(run('after_script').status).toBe(0)
    expect(readdirSync(dir)).not.toContain('nsm-77')
  })

  test('ends the job when what was promised cannot be unpacked', () => {
    writeFileSync(join(from, `${name}.tar.xz`), 'no archive')
    const { status, stdout } = run('before_script', { NSM_SHA256: hash('sha256', 'no archive') })
    expect([status, stdout]).toEqual([2, ''])
  })

  test('uses no folder that is there already', () => {
    mkdirSync(join(dir, 'nsm-77'))
    expect(run('before_script')).toMatchObject({ status: 8 })
  })

  test.skipIf(!isRoot).each([
    ['folder', (path: string) => chownSync(path, 65_534, 65_534)],
    [
      'link',
      (path: string) => {
        renameSync(path, `${path}-behind`)
        symlinkSync(`${path}-behind`, path)
      },
    ],
  ])("runs nothing from somebody else's %s after the job (needs root)", (_what, plant) => {
    const planted = join(dir, 'nsm-77')
    mkdirSync(planted)
    for (const file of ['nsm', 'connected']) writeFileSync(join(planted, file), program, { mode: 0o755 })
    plant(planted)
    expect(run('before_script')).toMatchObject({ status: 8 })
    expect(run('after_script')).toMatchObject({ status: 0, stdout: '', stderr: '' })
  })

  test('forgets who the job was and takes its folder away when leaving fails, as the runner runs it', () => {
    run('before_script')
    const { status, stdout } = run('after_script', { NSM_TEST_CODE: '7' }, ['sh', '-e'])
    expect([status, stdout]).toEqual([0, expect.stringMatching(/^ran disconnect --all with.*\nran logout with.*\n$/)])
    expect(readdirSync(dir)).not.toContain('nsm-77')
  })
})

describe('the Action', () => {
  const action = parse(readFileSync(join(ci, 'github/action.yml'), 'utf8'))

  test('names the files of its steps, and its inputs are those that the steps read', () => {
    expect(readdirSync(join(ci, 'github'))).toEqual(expect.arrayContaining([action.runs.main, action.runs.post]))
    const read = [...readFileSync(join(ci, 'github/connect.ts'), 'utf8').matchAll(/input\(environment, '(\w+)'\)/g)]
    expect(read.map(([, input]) => input).sort()).toEqual(Object.keys(action.inputs).sort())
  })

  function run(step: 'connect' | 'leave', more: NodeJS.ProcessEnv = {}) {
    const files = Object.fromEntries(['STATE', 'OUTPUT', 'PATH'].map((file) => [`GITHUB_${file}`, join(dir, file)]))
    const inputs = {
      INPUT_SERVICE: 'blue',
      INPUT_JOIN: 'nsm://x',
      INPUT_FROM: from,
      INPUT_SHA256: sha256,
      INPUT_ARGUMENTS: '--name\njob 7',
    }
    const env = { PATH: process.env['PATH'], RUNNER_TEMP: dir, ...files, ...inputs, ...more }
    return spawnSync(process.execPath, [join(ci, 'github', `${step}.ts`)], { env, encoding: 'utf8' })
  }
  const state = () =>
    Object.fromEntries(
      readFileSync(join(dir, 'STATE'), 'utf8')
        .trim()
        .split('\n')
        .map((line) => `STATE_${line}`.split('=')),
    )
  test.skipIf(!isRoot || process.arch !== 'x64')(
    'connects, tells the later steps where the program is, and leaves nothing behind (needs root, x64)',
    () => {
      expect(run('connect')).toMatchObject({ status: 0, stdout: 'ran connect --name job 7 -- blue with nsm://x \n' })
      const { STATE_folder: folder = '', STATE_program: path = '' } = state()
      expect(readFileSync(join(dir, 'PATH'), 'utf8')).toBe(`${folder}\n`)
      expect(readFileSync(join(dir, 'OUTPUT'), 'utf8')).toBe(`program=${path}\n`)
      expect(run('leave', state())).toMatchObject({
        status: 0,
        stdout: expect.stringContaining('ran disconnect --all'),
      })
      expect(readdirSync(dir)).not.toContain(folder.split('/').at(-1))
    },
  )

  test.skipIf(!isRoot || process.arch !== 'x64')(
    'forgets who the job was when leaving was killed (needs root, x64)',
    () => {
      run('connect')
      const { STATE_folder: folder = '', STATE_program: path = '' } = state()
      writeFileSync(path, '#!/bin/sh\necho ran "$@"\n[ "$1" = logout ] || kill -9 $$\n')
      const { status, stdout } = run('leave', state())
      expect([status, stdout]).toEqual([10, expect.stringMatching(/ran logout\n.*nsm disconnect was killed/)])
      expect(readdirSync(dir)).not.toContain(folder.split('/').at(-1))
    },
  )

  test.skipIf(!isRoot || process.arch !== 'x64')(
    'ends with the code of the program, and of the table when nothing was run (needs root, x64)',
    () => {
      expect(run('connect', { NSM_TEST_CODE: '4' }).status).toBe(4)
      // Nobody was made known, so nobody is forgotten.
      expect(run('leave', state()).stdout).not.toContain('logout')
      rmSync(join(dir, 'STATE'))
      const refused = run('connect', { INPUT_SHA256: '0'.repeat(64) })
      expect(refused).toMatchObject({
        status: 5,
        stdout: expect.stringMatching(/^::error title=nsm \(REFUSED\)::.*nothing of it was run/),
      })
      expect(run('leave', state()).status).toBe(0)
    },
  )
})
