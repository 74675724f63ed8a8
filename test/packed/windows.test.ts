import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { targets } from '../../scripts/package/target.ts'
import { buildMsi, buildSetup } from '../../scripts/package/windows.ts'
import { commandTable } from '../../src/commands/command-table.ts'
import { rootHelpText } from '../../src/ui/root-help.ts'
import { versionLine } from '../../src/ui/version-info.ts'
import { askUdp, questionBytes } from '../support/dns-client.ts'
import { DnsUpstream, reply } from '../support/dns-upstream.ts'

/* Windows' own parts of a release, run by Wine: their paths, processes, sockets and registry are those of Windows. */
const root = resolve(import.meta.dirname, '../..')
const wine = process.env['NSM_WINE'] ?? 'wine'
const target = targets.find(({ name }) => name === 'win-x64') ?? expect.fail('no Windows')
const release = Number(/^wine-(\d+)/.exec(spawnSync(wine, ['--version'], { encoding: 'utf8' }).stdout ?? '')?.[1] ?? 0)
const program = join(root, 'dist/win-x64/nsm.exe')
/** Of this checkout, not left from an earlier one: `npm run test:packed` says so. Wine 8 lacks memory that Node reserves. */
const canRun = release >= 10 && process.env['NSM_PROGRAM'] !== undefined && existsSync(program)
const canInstall =
  release > 0 && ['wixl', 'msibuild', 'makensis'].every((tool) => spawnSync(tool, ['-V']).error === undefined)

const dir = mkdtempSync(join(tmpdir(), 'nsm-wine-'))
const env = { PATH: process.env['PATH'], HOME: dir, WINEPREFIX: join(dir, 'prefix'), WINEDEBUG: '-all' }
const drive = join(env.WINEPREFIX, 'drive_c')
/** As Windows knows a path of this machine. */
const shown = (path: string) => `Z:${path.replaceAll('/', '\\')}`

/** A Windows of its own in a folder; Node wants one that calls itself 10. */
beforeAll(async () => {
  if (release === 0) return
  await inWine(['wineboot', '-i'])
  await inWine(['winecfg', '-v', 'win10'])
})
afterAll(async () => {
  if (release > 0) await inWine(['wineboot', '-k'])
  rmSync(dir, { recursive: true, force: true })
})

/** Starts a program of Windows; what it says goes into files, for Node takes none of Wine's pipes for its output. */
function start(words: readonly string[], more: NodeJS.ProcessEnv = {}) {
  const place = mkdtempSync(join(dir, 'said-'))
  const paths = [join(place, 'out'), join(place, 'err')] as const
  const files = paths.map((path) => openSync(path, 'w'))
  const child = spawn(wine, words, { env: { ...env, ...more }, cwd: dir, stdio: ['ignore', ...files] })
  for (const file of files) closeSync(file)
  return { child, said: () => paths.map((path) => readFileSync(path, 'utf8').replace(ofWine, '')) }
}

/** Wine speaks of its own surroundings on the same descriptor. */
const ofWine = /^error: XDG_RUNTIME_DIR.*\n|^it looks like wine32[\s\S]*?wine32:i386"\n/gm

async function inWine(words: readonly string[], more: NodeJS.ProcessEnv = {}) {
  const { child, said } = start(words, more)
  const [exitCode] = await once(child, 'exit')
  const [out = '', err = ''] = said()
  return { exitCode, out, err }
}

async function ended(child: ChildProcess): Promise<void> {
  const gone = once(child, 'exit')
  child.kill('SIGTERM')
  await gone
}

describe.skipIf(!canRun)('nsm.exe (needs npm run package -- --all, npm run test:packed, and Wine 10: NSM_WINE)', () => {
  const run = (...words: readonly string[]) => inWine([program, ...words])

  test('says what it is', async () => {
    const node = `v${target.nodeVersion}`
    const version = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version
    const line = versionLine({ version, system: target.system, node })
    expect(await run('--version')).toEqual({ exitCode: 0, out: `${line}\n`, err: '' })
    const { out } = await run('version', '--json')
    expect(JSON.parse(out)).toEqual({ apiVersion: 'nsm/version/v1', version, node, system: target.system })
  })

  test('shows the help of this checkout, and of every command', async () => {
    expect(await run('--help')).toEqual({ exitCode: 0, out: `${rootHelpText(commandTable)}\n`, err: '' })
    for (const { id, summary } of commandTable) {
      const { exitCode, out } = await run(...id.split(' '), '--help')
      expect([id, exitCode, out]).toEqual([id, 0, expect.stringContaining(`${summary}\n`)])
    }
  })

  const joinFile = join(dir, 'join.txt')
  const tunnelFile = join(dir, 'wg0.conf')
  const policyFile = join(dir, 'policy.yaml')
  const key = 'a'.repeat(42)
  const pin = `sha256-${'A'.repeat(43)}`
  beforeAll(() => {
    const files = {
      [joinFile]: `# from a mail\nnsm://127.0.0.1:1/?td=example.org&pin=${pin}&jt=${key}a\n`,
      [tunnelFile]: `[Interface]\nPrivateKey = ${key}A=\nAddress = 192.0.2.9/24\n`,
      [policyFile]: readFileSync(join(root, 'docs/policy.example.yaml'), 'utf8'),
    }
    // As an editor of Windows leaves them.
    for (const [path, text] of Object.entries(files)) writeFileSync(path, text.replaceAll('\n', '\r\n'))
  })

  test.each([
    ['connect', '--join', shown(joinFile), 'my-networkservice-1'],
    ['login', '--join', 'join.txt', '--method', 'device'],
    ['serve', '--listen', '127.0.0.1:0'],
    ['tunnel', 'up', shown(tunnelFile)],
    ['cleanup'],
    ['disconnect', '--all'],
    ['whoami'],
    ['logout'],
  ])('says that %s needs Linux, and leaves nothing behind', async (...words) => {
    const before = readdirSync(drive, { recursive: true })
    const { exitCode, err, out } = await run(...words)
    expect([exitCode, out, err]).toEqual([2, '', expect.stringContaining('on Linux only, and this is win32')])
    expect(readdirSync(drive, { recursive: true })).toEqual(before)
  })

  test.each([
    [0, /^# no network service is connected/, ['status']],
    [0, /^# no tunnel is up/, ['tunnel', 'status']],
    [2, /there is no command "nonsense"/, ['nonsense']],
    [2, /needs a value|expects a value/, ['connect', '--join']],
    [2, /Z:\\nothing\\here cannot be read/, ['connect', '--join', 'Z:\\nothing\\here', 'x']],
    [7, /no nsm serve runs here/, ['invite']],
    [7, /no background process runs/, ['dns', 'trace', 'x.example']],
    [0, /domains 2, grants 4, denies 1/, ['policy', 'check', shown(policyFile)]],
    [0, /domains 2, grants 4, denies 1/, ['policy', 'check', '.\\policy.yaml']],
    [
      5,
      /NOT_GRANTED/,
      ['policy', 'test', '--policy', 'policy.yaml', '--action', 'find', '--id', 'spiffe://acme.example/x'],
    ],
  ] as const)('ends with %i and says %s', async (code, text, words) => {
    const { exitCode, err, out } = await run(...words)
    expect([exitCode, out + err]).toEqual([code, expect.stringMatching(text)])
  })

  test('answers names over UDP, and asks the servers it is given', async () => {
    const upstream = await DnsUpstream.open((question) => [
      reply(question, { answers: [{ type: 'A', name: question.name, ttl: 60, data: '192.0.2.7' }] }),
    ])
    const words = [
      'dns',
      'serve',
      '--listen',
      '127.0.0.1:0',
      '--scope',
      `corp.example=127.0.0.1:${upstream.target.port}`,
    ]
    const { child, said } = start([program, ...words])
    try {
      const [, port] = await vi.waitFor(
        () => /^listening on 127\.0\.0\.1:(\d+)/.exec(said()[0] ?? '') ?? expect.fail(said().join('')),
        { timeout: 120_000 },
      )
      const { answers } = await askUdp(Number(port), questionBytes('db.corp.example'))
      expect(answers).toMatchObject([{ name: 'db.corp.example', data: '192.0.2.7' }])
      expect((await askUdp(Number(port), questionBytes('else.example'))).rcode).toBe('REFUSED')
      const asked = await run('dns', 'query', 'db.corp.example', '--server', `127.0.0.1:${port}`)
      expect([asked.exitCode, asked.out]).toEqual([0, expect.stringContaining('192.0.2.7')])
    } finally {
      await ended(child)
      await upstream.close()
    }
  })

  test('loads nothing that is planted around it', async () => {
    const shout = 'require("node:fs").writeFileSync("planted", "x")'
    for (const name of ['koffi', '@oclif/core', 'yaml']) {
      mkdirSync(join(dir, 'node_modules', name), { recursive: true })
      writeFileSync(join(dir, 'node_modules', name, 'index.js'), shout)
    }
    writeFileSync(join(dir, 'evil.cjs'), shout)
    const around = {
      NODE_OPTIONS: '--require ./evil.cjs --inspect=127.0.0.1:0',
      NODE_PATH: shown(dir),
      OPENSSL_CONF: shown(join(dir, 'evil.cjs')),
      NODE_REDIRECT_WARNINGS: shown(join(dir, 'planted')),
      NODE_V8_COVERAGE: shown(join(dir, 'planted')),
      NODE_COMPILE_CACHE: shown(join(dir, 'planted')),
    }
    const { exitCode, err } = await inWine([program, 'policy', 'check', 'policy.yaml'], around)
    expect([exitCode, err]).toEqual([0, ''])
    expect(existsSync(join(dir, 'planted'))).toBe(false)
  })
})

describe.skipIf(!canInstall)('the installers of Windows (need Wine, wixl, msitools and nsis)', () => {
  const folder = join(drive, 'Program Files/nsm')
  const parts = ['LICENSE.txt', 'THIRD-PARTY-NOTICES.txt', 'nsm.exe', 'nsm.ps1']
  const packages = join(dir, 'packages')
  const completions = new Map([['nsm.ps1', '# completions\n']])
  const packing = { beside: { completions, manPage: '', licence: 'licence\n' }, isQuick: true, dir: packages }
  const built = { target, path: join(packages, 'nsm.exe'), notices: 'notices\n' }
  beforeAll(() => {
    mkdirSync(packages)
    // Where it cannot be run, what arrives matters alone.
    if (canRun) copyFileSync(program, built.path)
    else writeFileSync(built.path, 'a program')
  })

  const environment = 'HKLM\\SYSTEM\\CurrentControlSet\\Control\\Session Manager\\Environment'
  const uninstall = 'HKLM\\Software\\Microsoft\\Windows\\CurrentVersion\\Uninstall'
  const machinePath = async () => (await inWine(['reg', 'query', environment, '/v', 'PATH'])).out
  const known = async () => (await inWine(['reg', 'query', uninstall, '/s'])).out

  test('the MSI puts the program into its folder and into PATH, and takes all of it away again', async () => {
    const before = await machinePath()
    const msi = shown(buildMsi({ ...built, version: '1.2.3' }, packing))
    expect(await inWine(['msiexec', '/i', msi, '/qn'])).toMatchObject({ exitCode: 0 })
    expect(readdirSync(folder).sort()).toEqual(parts)
    expect(readFileSync(join(folder, 'nsm.exe')).equals(readFileSync(built.path))).toBe(true)
    expect(await machinePath()).toContain(';C:\\Program Files\\nsm')
    expect(await known()).toMatch(/DisplayName\s+REG_SZ\s+nsm\b/)
    if (canRun) expect((await inWine(['cmd', '/c', 'nsm --version'])).out).toMatch(/^nsm \d/)
    expect(await inWine(['msiexec', '/x', msi, '/qn'])).toMatchObject({ exitCode: 0 })
    expect(existsSync(folder)).toBe(false)
    expect(await known()).not.toContain('nsm')
    // Wine leaves the semicolon.
    expect((await machinePath()).replace(/;?\s*$/, '')).toBe(before.trimEnd())
  })

  test('a later MSI takes the place of an earlier one', async () => {
    const [first = '', second = ''] = ['1.2.3', '1.2.4'].map((version) =>
      shown(buildMsi({ ...built, version }, packing)),
    )
    for (const msi of [first, second])
      expect(await inWine(['msiexec', '/i', msi, '/qn'])).toMatchObject({ exitCode: 0 })
    expect((await known()).match(/DisplayVersion\s+REG_SZ\s+\S+/g)).toEqual([expect.stringContaining('1.2.4')])
    expect(readdirSync(folder).sort()).toEqual(parts)
    await inWine(['msiexec', '/x', second, '/qn'])
    expect(existsSync(folder)).toBe(false)
  })

  test('the setup program installs without a question, and its uninstaller leaves nothing', async () => {
    const setup = buildSetup({ ...built, version: '1.2.3' }, packing)
    expect(await inWine([setup, '/S'])).toMatchObject({ exitCode: 0 })
    expect(readdirSync(folder).sort()).toEqual([...parts, 'uninstall.exe'].sort())
    expect(readFileSync(join(folder, 'nsm.exe')).equals(readFileSync(built.path))).toBe(true)
    expect(await known()).toMatch(/DisplayName\s+REG_SZ\s+nsm\b/)
    expect(await inWine(['C:\\Program Files\\nsm\\uninstall.exe', '/S'])).toMatchObject({ exitCode: 0 })
    // It goes on as a copy of itself.
    await vi.waitUntil(() => !existsSync(folder), { timeout: 120_000 })
    await vi.waitUntil(async () => !(await known()).includes('nsm'), { timeout: 120_000 })
  })
})
